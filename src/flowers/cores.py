"""How many processor cores there are for this process."""

from __future__ import annotations

import os


def available_cores() -> int:
    """The cores that this process may run on: a container's or a job's share, not the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinity
