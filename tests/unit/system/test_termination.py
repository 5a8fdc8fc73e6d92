"""A signal ends a command with the exit status that shells expect, and an ignored signal stays ignored."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from flowers.system.termination import Terminated, handle_signals, raise_on_signals

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def restore_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's background jobs ignore SIGINT
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_with_its_status(number: signal.Signals) -> None:
    raise_on_signals()
    with pytest.raises(Terminated) as end:
        os.kill(os.getpid(), number)
    assert end.value.code == 128 + number


def test_a_background_job_of_a_script_keeps_ignoring_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    handle_signals(lambda number, frame: None)
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
