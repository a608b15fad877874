"""Losses of a tokenizer: what makes a reconstruction similar to its target."""
