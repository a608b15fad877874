"""Judges of generated items: each reads what the items of one built-in set show, and a set names its own."""
