"""Print a ranking of backbones for a data set, and the command that trains with the best of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from flowers.inference.choose import Candidate, Choice
from flowers.system.paths import shorten

_console = Console(soft_wrap=True, highlight=False)


def print_choice(choice: Choice, data: Sequence[str]) -> None:
    """Print a table of the candidates, the best first, the path of its file, and the next command.

    Args:
        choice: the candidates.
        data: the command line's overrides of the data, to be repeated in the next command.
    """
    names = ("cv acc", "cv F1", "val acc", "val F1", "images/s", "params")
    columns = [Column(name, justify="right", no_wrap=True) for name in names]
    # Without lines between columns, the table fits into 80 characters.
    table = Table(Column("backbone", overflow="fold"), *columns, "licence", box=SIMPLE, padding=0)
    for candidate in choice.candidates:
        table.add_row(*_cells(candidate))
    _console.print(table)
    if choice.passed_over:
        _console.print(f"Passed over:  {', '.join(choice.passed_over)}", markup=False)
    _console.print(f"Written to:   {shorten(choice.directory / 'choose.csv')}", markup=False)
    _console.print(f"Train it:     {next_command(choice.candidates[0], data)}", markup=False)


def next_command(candidate: Candidate, data: Sequence[str]) -> str:
    """Return the command that trains with a candidate on the same data."""
    pretrained = str(candidate.pretrained).lower()
    settings = [*data, f"model.backbone={candidate.backbone}", f"model.pretrained={pretrained}"]
    return " ".join(["python src/train.py", *map(shlex.quote, settings)])


def _cells(candidate: Candidate) -> list[str]:
    scores = (candidate.cv_accuracy, candidate.cv_macro_f1, candidate.val_accuracy, candidate.val_macro_f1)
    shown = ["" if score is None else f"{score:.4f}" for score in scores]
    speed = "" if candidate.images_per_second is None else f"{candidate.images_per_second:.1f}"
    return [candidate.backbone, *shown, speed, f"{candidate.parameters / 1e6:.1f} M", candidate.licence]
