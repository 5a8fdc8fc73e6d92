"""Upload offline W&B runs: python src/sync.py [runs=DIR]."""

from flowers.commands import sync

if __name__ == "__main__":
    sync()
