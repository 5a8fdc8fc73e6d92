"""Print the result of a verification as a table and a list. Apart from summary.py, whose imports take seconds."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from flowers.preparation.findings import Kind
from flowers.preparation.verify import Verification

SHOWN = 5
"""Findings of a kind that are printed."""

TITLES: dict[Kind, str] = {
    "split": "Missing or unreadable splits",
    "shard": "Damaged or missing shards",
    "record": "Bad records",
    "duplicate": "Ids twice in a split",
    "leak": "Ids in two splits",
    "resolution": "Resolutions that disagree",
    "manifest": "Other than manifest.csv says",
}

_console = Console(soft_wrap=True, highlight=False)


def print_verification(verification: Verification) -> None:
    """A table with a row a split and resolution, and below it the first findings of each kind."""
    figures = [Column(name, justify="right") for name in ("shards", "records", "classes", "bad records")]
    table = Table("pixels", "split", *figures)
    for part in verification.parts:
        classes = "" if part.split == "test" else f"{part.classes} of {verification.class_count}"
        figures_of = (len(part.files), part.found, classes, part.bad)
        table.add_row(str(part.size), part.split, *map(str, figures_of), end_section=part.split == "test")
    _console.print(table)
    for kind, title in TITLES.items():
        messages = [finding.message for finding in verification.findings if finding.kind == kind]
        if not messages:
            continue
        _console.print(f"[bold]{title}: {len(messages)}[/bold]")
        for message in messages[:SHOWN]:
            _console.print(f"  {message}", markup=False)
        if len(messages) > SHOWN:
            _console.print(f"  and {len(messages) - SHOWN} more")
    if not verification.findings:
        _console.print("No problems found")
