"""Losses: what does "alike" mean?"""
