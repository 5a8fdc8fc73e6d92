"""Benchmarks of the loader, the training step, the default recipe and more, with their baselines."""
