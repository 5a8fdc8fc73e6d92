"""End a command at SIGTERM and Ctrl-C with the exit status that shells and schedulers expect."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = {signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}


class Terminated(SystemExit):
    """Raised when a signal ends a command. The CLI prints `message`, and the process exits with `status`.

    Args:
        number: the signal's number, kept as an attribute.
        detail: text of `message` after the signal's name.
        status: the exit status; None for 128 + `number`, the convention of shells.
    """

    def __init__(self, number: int, detail: str = "", status: int | None = None) -> None:
        super().__init__(128 + number if status is None else status)
        self.number = number
        self.message = f"stopped by {NAMES.get(signal.Signals(number), number)}{detail}."


def raise_on_signals() -> None:
    """Raise `Terminated` in the main thread at SIGTERM and Ctrl-C.

    Unfinished files are then removed, and runs are marked.
    """
    handle_signals(_terminate)


def handle_signals(handler: Callable[[int, FrameType | None], None]) -> None:
    """Call `handler` at SIGTERM, and at Ctrl-C unless the process ignores it, as a script's background job does."""
    signal.signal(signal.SIGTERM, handler)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def hold_signals() -> Iterator[None]:
    """Hold SIGTERM and Ctrl-C back until the block ends. Processes that are started in it hold them from birth."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, NAMES)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)
