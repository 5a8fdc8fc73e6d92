"""The processes of a distributed training, within a program that may train again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch.distributed

_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE")

Value = TypeVar("Value")


def has_process_group() -> bool:
    """Tell whether this process exchanges objects with others. The hosts of a TPU pod do not."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def gather_objects(own: Value) -> list[Value]:
    """Return the value of every process, by rank; only this one's without a process group. All processes call it."""
    if not has_process_group():
        return [own]
    values = [own] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, own)
    return values


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
    if has_process_group():
        torch.distributed.destroy_process_group()  # not after an error: the other processes may not come to it
