"""A module a loader. Each has `batches(work)`: endless batches, as a careful user of its library reads them."""
