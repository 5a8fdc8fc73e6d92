"""The garden: a synthetic stand-in for the competition's photographs. Metrics on it say nothing about real flowers."""

from flowers.synthetic.generation import Garden, generate

__all__ = ["Garden", "generate"]
