"""Rank backbones for a data set before training any: python src/choose.py [data=NAME] [backbones=[NAME,...]]."""

from flowers.commands import choose

if __name__ == "__main__":
    choose()
