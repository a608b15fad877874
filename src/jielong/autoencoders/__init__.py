"""Autoencoders: the networks on both sides of a tokenizer's bottleneck."""
