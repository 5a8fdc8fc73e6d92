"""Make and check data sets: python src/prepare.py folder source=PHOTOS output=DIR, or verify root=DIR."""

from flowers.commands import prepare

if __name__ == "__main__":
    prepare()
