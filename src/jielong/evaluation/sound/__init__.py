"""Figures of sound, each with its protocol: how near it is, how well it is heard, what is said, and whose voice says it."""
