"""Defences, one file each, all with the same signature: (clip, data, config) → cure of that clip in place."""
