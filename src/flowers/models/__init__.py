"""Models: from batches of images to logits, and the loss."""
