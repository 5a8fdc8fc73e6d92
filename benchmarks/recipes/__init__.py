"""Benchmark of the default recipe against others, with the same weights, split, epochs and batch size."""
