"""From a model to statistics, and from statistics to a judgement."""
