"""The loader beside others that do the same work."""
