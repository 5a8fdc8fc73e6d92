"""Train, predict and score all folds of a data set."""
