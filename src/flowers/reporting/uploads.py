"""Print the results of uploading offline W&B runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console

from flowers.reporting.wandb_sync import Outcome
from flowers.system.paths import shorten

_console = Console(soft_wrap=True, highlight=False)


def print_outcome(outcome: Outcome) -> None:
    """Print the result of one offline run, unless it was already uploaded before."""
    if outcome.status != "already uploaded":
        note = "not uploaded, see below" if outcome.status == "bad" else outcome.note
        _console.print(f"{outcome.status + ':':<10} {shorten(outcome.directory)}  {note}".rstrip(), markup=False)


def print_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print the number of offline runs by status, and for each bad one the reason and the fix."""
    for outcome in outcomes:
        if outcome.status == "bad":
            _console.print(f"{shorten(outcome.directory)}: {outcome.note}. {outcome.fix}.", markup=False)
    counts = Counter(outcome.status for outcome in outcomes)
    _console.print(", ".join(f"{number} {status}" for status, number in counts.items()) or "no offline runs found")
