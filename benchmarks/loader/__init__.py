"""Benchmark of the loader against others that do the same work."""
