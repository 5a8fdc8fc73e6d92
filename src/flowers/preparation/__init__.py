"""Convert photographs to shards in Kaggle's layout, and verify data sets."""
