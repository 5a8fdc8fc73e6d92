"""The second pass: write the photographs to shards, as planned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL.Image import Image
from upath import UPath

from flowers.data.layout import SPLITS, Split, shard_name, size_directory
from flowers.data.storage.remote import read_error
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.framing import FRAME, index_shard, open_shard
from flowers.errors import InputError
from flowers.preparation.images import decode, square_jpeg
from flowers.preparation.manifest import PlannedImage
from flowers.preparation.runner import TaskRunner
from flowers.preparation.source import Source, class_names


class ImageTask(NamedTuple):
    """An image to write: the part of its row in the plan that workers need, to keep their tasks small."""

    id: str
    path: str
    label: int | None
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardTask:
    """A shard to write, at the sizes at which it is missing."""

    split: Split
    shard: int
    sizes: tuple[int, ...]
    images: tuple[ImageTask, ...]


def missing_shards(output: UPath, plan: Sequence[PlannedImage], sizes: Sequence[int]) -> list[ShardTask]:
    """Find the plan's shards that are missing or incomplete."""
    labels = {name: label for label, name in enumerate(class_names(image.label for image in plan))}
    shards: dict[tuple[Split, int], list[ImageTask]] = {}
    for image in plan:
        label = None if image.split == "test" else labels[image.label]
        row = ImageTask(image.id, image.path, label, image.sha256)
        shards.setdefault((image.split, image.shard), []).append(row)
    tasks = [
        ShardTask(*place, _missing_sizes(output, *place, len(images), sizes), tuple(images))
        for place, images in shards.items()
    ]
    return [task for task in tasks if task.sizes]


def write_shards(
    source: Source, output: UPath, tasks: Sequence[ShardTask], sizes: Sequence[int], run_tasks: TaskRunner
) -> None:
    """Write the shards of `tasks` to a data set whose images have these sizes, in pixels a side."""
    for size in sizes:
        for split in SPLITS:
            (size_directory(output, size) / split).mkdir(parents=True, exist_ok=True)
    if tasks:
        # All tasks decode for the largest size: the bytes must not depend on where a run was stopped.
        work = partial(write_planned_shard, source.directory, output, max(sizes))
        run_tasks(work, tasks, "Writing", sum(len(task.images) for task in tasks))


def _shard_path(output: UPath, split: Split, shard: int, count: int, size: int) -> UPath:
    return size_directory(output, size) / split / shard_name(shard, size, count)


def _missing_sizes(output: UPath, split: Split, shard: int, count: int, sizes: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in sizes if not _is_complete(_shard_path(output, split, shard, count, size), count))


def _is_complete(path: UPath, count: int) -> bool:
    """Return whether a shard holds `count` records, by their lengths or, if it is remote, by its size.

    Raises:
        InputError: the shard cannot be read.
    """
    try:
        if not isinstance(path, Path):
            # Requesting each record would cost more than writing the shard again.
            return bool(path.stat().st_size > count * FRAME)
        index = index_shard(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise read_error(path, error) from None
    return index.problem is None and len(index) == count


def write_planned_shard(directory: UPath, output: UPath, largest: int, task: ShardTask) -> int:
    """Write one shard at all of its missing sizes, and return its number of images. Each image is decoded once.

    Args:
        directory: the directory that the paths of the photographs are relative to.
        output: the data set's directory.
        largest: the largest of the data set's sizes, in pixels.
        task: the shard.

    Raises:
        InputError: a photograph has changed since it was scanned.
    """
    with ExitStack() as stack:
        shards = {
            size: stack.enter_context(open_shard(_shard_path(output, task.split, task.shard, len(task.images), size)))
            for size in task.sizes
        }
        for image in task.images:
            # At twice the needed side, libjpeg's averaging followed by Lanczos comes close to Lanczos alone.
            decoded = _decode_unchanged(directory / image.path, image.sha256, 2 * largest)
            for size, append in shards.items():
                append(encode_example(Record(image.id, square_jpeg(decoded, size), image.label)))
    return len(task.images)


def _decode_unchanged(file: UPath, sha256: str, min_side: int) -> Image:
    try:
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == sha256:
            return decode(data, min_side)
        found = f"another (SHA-256 {hashlib.sha256(data).hexdigest()[:16]}...)"
    except OSError as error:
        found = error.strerror or str(error)
    except ValueError as error:  # for example too little memory: the scan decodes at a smaller size
        found = str(error)
    raise InputError(
        f"{file}: expected the file that was scanned (SHA-256 {sha256[:16]}...), found {found}. "
        "Restore it, or remove the output to write it again."
    )
