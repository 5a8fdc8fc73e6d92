"""The garden: a procedural stand-in for the competition's photographs. Its figures say nothing about real flowers."""

from flowers.synthetic.generation import Garden, generate

__all__ = ["Garden", "generate"]
