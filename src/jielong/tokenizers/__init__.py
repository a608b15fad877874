"""Tokenizers: media to tokens and back."""
