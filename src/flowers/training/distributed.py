"""The processes of a distributed training, within a program that may train again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")


@contextmanager
def closing_process_group() -> Iterator[None]:
    """Leave a process as it was before Lightning made it the first of several.

    Lightning keeps the group and the environment variables that it sets for the processes which it starts. With those,
    the next job of a multirun waits for processes that nobody starts.
    """
    before = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        for name in _VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(before)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # not after an error: the other processes may not come to it
