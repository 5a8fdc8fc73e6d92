"""Batches to logits."""
