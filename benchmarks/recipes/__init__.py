"""The default recipe beside others: the same weights, split, epochs and batch size."""
