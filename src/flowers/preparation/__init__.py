"""Your own photographs to shards in Kaggle's layout."""
