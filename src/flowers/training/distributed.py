"""Exchange objects between the processes of a training, and clean up after a distributed one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")

Value = TypeVar("Value")


def has_process_group() -> bool:
    """Return whether this process can exchange objects with others. The hosts of a TPU pod cannot."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gather_objects(own: Value) -> list[Value]:
    """Return the values of all processes in rank order, or only this one's without a process group.

    All processes must call it.
    """
    if not has_process_group():
        return [own]
    values = [own] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, own)
    return values


@contextmanager
def closing_process_group() -> Iterator[None]:
    """Close the process group after the block, and restore the environment variables that Lightning set.

    Lightning keeps both. The next job of a multirun would then wait for processes that are never started.
    """
    before = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        for name in _VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(before)
    if has_process_group():
        torch.distributed.destroy_process_group()  # not after an error: other processes may not reach it
