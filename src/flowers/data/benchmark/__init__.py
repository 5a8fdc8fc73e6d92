"""How fast the loader is, beside other ways to do the same work."""
