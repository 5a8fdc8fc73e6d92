"""How a DataLoader's workers start where a fork of the main process would not do."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext


def fork_server() -> ForkServerContext:
    """Workers from a process that has no threads: a fork of this one would inherit the locks of its threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flowers.data.batches"])
    return context
