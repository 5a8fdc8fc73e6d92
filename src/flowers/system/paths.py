"""Shorten paths for printing."""

from __future__ import annotations

from pathlib import Path


def shorten(path: Path) -> Path:
    """Return a path relative to the working directory if it is below it, and otherwise unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
