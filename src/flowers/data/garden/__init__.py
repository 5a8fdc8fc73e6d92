"""The garden: a procedural stand-in for the competition's photographs. Its figures say nothing about real flowers."""

from flowers.data.garden.planting import Garden, plant

__all__ = ["Garden", "plant"]
