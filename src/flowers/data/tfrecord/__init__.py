"""Read and write TFRecord files: framing, checksums, index and tf.train.Example."""
