"""Flower classification from TFRecord shards: data -> models -> training -> ensembling, reporting.

Importing this package imports nothing heavy; each room is imported by its own name.
"""

import os

# Importing albumentations otherwise asks PyPI for a newer version, with a time-out where there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# torch_xla, where it is installed, otherwise takes the CPU for its device, and says so, as soon as it is looked for.
os.environ.setdefault("PJRT_SELECT_DEFAULT_DEVICE", "0")
# Else gcsfs asks of what kind a bucket is, by gRPC and before each read: in vain, for a minute, where a proxy lets only
# HTTP through. Zonal buckets alone need it: set it to true for those.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
