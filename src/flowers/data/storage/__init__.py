"""Files behind URLs, by fsspec, with a local cache."""
