"""Tasks: the protocol, and the shipped ones."""
