"""Data: built-in sets, folders, shards."""
