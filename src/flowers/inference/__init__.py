"""One model used: evaluation, predictions with test-time augmentation, the submission."""
