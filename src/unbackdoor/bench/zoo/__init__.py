"""Populations of small CLIP models, clean and backdoored, to calibrate detection on and to test it."""
