"""Probabilities to decisions."""
