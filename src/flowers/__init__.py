"""Classify flowers from TFRecord shards: data -> models -> training -> inference -> ensembling, reporting.

Importing this package imports nothing heavy. Import each subpackage by its full name.
"""

import os

# Otherwise albumentations looks for a newer version on PyPI when it is imported, and waits if there is no network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Otherwise torch_xla, where it is installed, selects the CPU with a message as soon as anything checks for it.
os.environ.setdefault("PJRT_SELECT_DEFAULT_DEVICE", "0")
# Otherwise gcsfs requests the bucket's type by gRPC before each read. Behind a proxy that only passes HTTP, each of
# these requests fails after a minute. Only zonal buckets need it: set the variable to true for those.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
