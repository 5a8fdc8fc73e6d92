"""Train, predict and score all folds of a data set: python src/cross_validate.py folds=5 [output=DIR] [SETTINGS]."""

from flowers.commands import cross_validate

if __name__ == "__main__":
    cross_validate()
