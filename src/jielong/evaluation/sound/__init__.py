"""Metrics of audio, each with its protocol: signal distances, perceptual quality, word error rates, speaker similarity."""
