"""Find out the processor's name, and how many of its cores this process may use."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def available_cores() -> int:
    """Return the number of cores that this process may use: those of its container or job, not of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS has no affinity


def cpu_model() -> str:
    """Return the processor's name, as far as the system reports it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
