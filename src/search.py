"""Search for settings: python src/search.py hparams_search=optuna [trials=N] [output=DIR] [overrides of train.py]."""

from flowers.commands import search

if __name__ == "__main__":
    search()
