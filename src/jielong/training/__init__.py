"""Training: one loop for tokenizers and generators."""
