"""Conditions: what is it about?"""
