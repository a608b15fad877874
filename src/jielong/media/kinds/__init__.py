"""Kinds of media, one a module."""
