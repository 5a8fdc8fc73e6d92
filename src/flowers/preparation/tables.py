"""Read and write dataclasses as CSV files, and list directories, local or on an object store."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar

from pydantic import TypeAdapter
from upath import UPath

from flowers.data.storage.remote import read_error
from flowers.errors import InputError
from flowers.system.atomic import write_atomic

Row = TypeVar("Row")


def write_table(path: UPath, kind: type[Any], rows: Sequence[Any]) -> None:
    """Write dataclasses of type `kind` as a CSV file, atomically."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_atomic(path, text.getvalue())


def read_table(path: UPath, kind: type[Row]) -> list[Row]:
    """Read a table that `write_table` wrote.

    Raises:
        InputError: the table is damaged, or cannot be read.
    """
    try:
        rows = csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))
        return TypeAdapter(list[kind]).validate_python(list(rows))  # type: ignore[valid-type]
    except OSError as error:
        raise read_error(path, error) from None
    except (ValueError, csv.Error) as error:
        columns = ",".join(field.name for field in fields(kind))  # type: ignore[arg-type]
        raise InputError(
            f"{path}: expected a table with the columns {columns}, found this: "
            f"{' '.join(str(error).split())[:300]} Restore the file."
        ) from None


def entries(directory: UPath) -> list[UPath]:
    """List a directory; an empty list if it does not exist, because object stores have no empty directories."""
    directory.fs.invalidate_cache()  # other processes write to it, too
    return sorted(directory.iterdir(), key=lambda path: path.name) if directory.is_dir() else []
