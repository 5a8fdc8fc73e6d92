"""SIGTERM and Ctrl-C end a command with the status that shells and schedulers expect of it."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Terminated(SystemExit):
    """Raised where a signal ends a command. The CLI prints `message`; the process exits with `status`.

    Args:
        number: the signal's.
        detail: what `message` says beside the signal's name.
        status: the exit status; None: 128 + `number`, as shells count it.
    """

    def __init__(self, number: int, detail: str = "", status: int | None = None) -> None:
        super().__init__(128 + number if status is None else status)
        self.message = f"stopped by {NAMES.get(signal.Signals(number), number)}{detail}."


def raise_on_signals() -> None:
    """Raise `Terminated` in the main thread at SIGTERM and Ctrl-C: unfinished files are removed, runs are marked."""
    handle_signals(_terminate)


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call `handler` at SIGTERM and Ctrl-C, the latter unless the process ignores it, as a script's background job."""
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)
