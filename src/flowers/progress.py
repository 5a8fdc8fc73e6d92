"""Progress bars on standard error, shown in a terminal only and removed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], description: str, total: int, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """Yield the items, and show a progress bar that advances by the `size` of each item up to `total`."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task(description, total=total)
        for item in items:
            yield item
            bars.advance(bar, size(item))
