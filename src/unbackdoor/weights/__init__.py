"""Vector arithmetic on state dicts and safe, atomic reading and writing of weight files."""
