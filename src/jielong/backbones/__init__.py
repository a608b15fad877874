"""Backbones: networks from the tokens so far to hidden vectors."""
