"""Benchmark of a training step, by device."""
