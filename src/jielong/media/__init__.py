"""Media: read, write and preview images."""
