"""Flower classification from TFRecord shards: data -> models -> training -> ensembling, reporting.

Importing this package imports nothing heavy; each room is imported by its own name.
"""

import os

# Importing albumentations otherwise asks PyPI for a newer version, with a time-out where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# torch_xla, where it is installed, otherwise takes the CPU for its device, and says so, as soon as it is looked for.
os.environ.setdefault("PJRT_SELECT_DEFAULT_DEVICE", "0")
