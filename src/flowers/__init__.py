"""Flower classification from TFRecord shards: data -> models -> training -> ensembling, reporting.

Importing this package imports nothing heavy; each room is imported by its own name.
"""

import os

# Importing albumentations otherwise asks PyPI for a newer version, with a time-out where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
