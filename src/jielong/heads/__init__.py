"""Heads: from what distribution is the next token drawn?"""
