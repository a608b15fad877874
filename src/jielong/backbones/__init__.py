"""Backbones: what has been seen so far?"""
