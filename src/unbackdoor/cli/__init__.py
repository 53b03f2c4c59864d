"""The command line: one small file per command that parses, calls one verb and prints."""
