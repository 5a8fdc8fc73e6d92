"""Count the page faults of allocations like those of a step's activations."""

from __future__ import annotations

import resource

import torch

BYTES = 64 * 2**20
PAGES = BYTES // resource.getpagesize()


def allocate(times: int) -> int:
    """Allocate, fill and free an array of 64 MiB so many times, and return the page faults on the way."""
    before = _faults()
    for _ in range(times):
        torch.empty(BYTES, dtype=torch.uint8).fill_(1)
    return _faults() - before


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
