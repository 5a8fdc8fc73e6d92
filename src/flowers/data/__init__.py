"""Read TFRecord shards and turn them into batches."""
