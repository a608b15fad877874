"""Quantizers: from vectors to code indices and back."""
