"""Published checkpoints of others, read into our own parts."""
