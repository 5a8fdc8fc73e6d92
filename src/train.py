"""Train a model: python src/train.py [group=NAME ...] [key=VALUE ...]; --help lists them."""

from flowers.commands import train

if __name__ == "__main__":
    train()
