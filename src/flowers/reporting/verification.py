"""Print the result of a verification. It is a module of its own because the imports of summary.py take seconds."""

from __future__ import annotations

from rich.console import Console
from rich.table import Column, Table

from flowers.preparation.findings import Kind
from flowers.preparation.verify import Verification

SHOWN = 5
"""The number of findings of each kind that are printed."""

TITLES: dict[Kind, str] = {
    "split": "Missing or unreadable splits",
    "shard": "Damaged or missing shards",
    "record": "Bad records",
    "duplicate": "Duplicate ids in a split",
    "leak": "Ids in two splits",
    "resolution": "Resolutions that disagree",
    "manifest": "Differences from manifest.csv",
}

_console = Console(soft_wrap=True, highlight=False)


def print_verification(verification: Verification) -> None:
    """Print a table with a row for each split and resolution, and the first findings of each kind below it."""
    counts = [Column(name, justify="right") for name in ("shards", "records", "classes", "bad records")]
    table = Table("pixels", "split", *counts)
    for part in verification.parts:
        classes = "" if part.split == "test" else f"{part.classes} of {verification.class_count}"
        row = (len(part.files), part.found, classes, part.bad)
        table.add_row(str(part.size), part.split, *map(str, row), end_section=part.split == "test")
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
