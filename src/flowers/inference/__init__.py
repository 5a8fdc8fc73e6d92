"""Use a single model: evaluation, predictions with test-time augmentation, submissions and the choice of a backbone."""
