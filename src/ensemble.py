"""Blend runs' predictions into one submission: python src/ensemble.py 'runs=[DIR,DIR]' [method=NAME]."""

from flowers.commands import ensemble

if __name__ == "__main__":
    ensemble()
