"""Read files behind URLs through fsspec, with a local cache."""
