"""Tokenizers: what is the unit?"""
