"""Grids of models × data × attacks × defences × seeds: recipes, resumable cells, engines and tables."""
