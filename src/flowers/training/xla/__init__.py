"""Support for XLA: `trainer=tpu`, on a TPU or on XLA's own CPU runtime.

Importing this package checks the installed versions before torch_xla is imported. With a torch of another release, that
import fails with an undefined symbol. No other package of the project imports torch_xla.
"""

import logging
import os

from flowers.training.xla.versions import check_versions, find_versions

check_versions(find_versions())
# torch_xla 2.8 logs this for each tensor of a model where jax is not installed, though nothing here needs it.
logging.getLogger().addFilter(lambda record: "requires jax/pallas" not in str(record.msg))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's own warnings, one for each compilation
