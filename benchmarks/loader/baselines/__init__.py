"""One module per loader. Its `batches(work)` yields endless batches, as a careful user of the library would."""
