"""Evaluation: metrics with their provenance."""
