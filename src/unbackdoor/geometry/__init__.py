"""Where behaviours lie in weight space: what two vectors do to one another, and where in a model they sit."""
