"""The TFRecord file format: framing, checksums, index, tf.train.Example."""
