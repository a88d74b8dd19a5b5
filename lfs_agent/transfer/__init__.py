"""One object at a time, between a file and a store."""
