"""A run as three values: what is worked on (`Case`), how (a config of the verb), where it is noted (`Run`)."""
