"""Many runs from one YAML: grids of attacks and defenses, populations of models; resumable cells, engines, tables."""
