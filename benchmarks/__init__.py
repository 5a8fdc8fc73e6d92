"""Measurements of the loader, the training step and the rest, with their baselines."""
