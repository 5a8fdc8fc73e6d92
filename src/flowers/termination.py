"""SIGTERM ends a command with the status that shells and schedulers expect of it."""

from __future__ import annotations

import signal
from types import FrameType

STATUS = 128 + signal.SIGTERM


class Terminated(SystemExit):
    """Raised where SIGTERM ends a command. The CLI prints `message`; the process exits with `status`."""

    def __init__(self, message: str = "stopped by SIGTERM.", status: int = STATUS) -> None:
        super().__init__(status)
        self.message = message


def raise_on_sigterm() -> None:
    """Raise `Terminated` in the main thread at SIGTERM, so that unfinished files are removed and runs are marked."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated
