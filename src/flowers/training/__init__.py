"""Train models, and manage run directories, checkpoints, predictions files and loggers."""
