"""The second pass: photographs to shards, as the plan says."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

from PIL.Image import Image
from upath import UPath

from flowers.data.example import Record, encode_example
from flowers.data.layout import SPLITS, Split, shard_name, size_directory
from flowers.data.prepare.images import decode, square_jpeg
from flowers.data.prepare.manifest import PlannedImage
from flowers.data.prepare.processes import Spread
from flowers.data.prepare.source import Source, class_names
from flowers.data.prepare.tables import read_table
from flowers.data.shards import open_shard
from flowers.errors import InputError


def write_missing(
    source: Source, output: UPath, plan: Sequence[PlannedImage], sizes: Sequence[int], spread: Spread
) -> None:
    """Write the plan's shards, but for those that are there."""
    for size in sizes:
        for split in SPLITS:
            (size_directory(output, size) / split).mkdir(parents=True, exist_ok=True)
    counts = Counter((image.split, image.shard) for image in plan)
    tasks = [task for task, count in counts.items() if _missing_sizes(output, *task, count, sizes)]
    if tasks:
        work = partial(write_planned_shard, source.directory, output, sizes)
        spread(work, tasks, "Writing", sum(counts[task] for task in tasks))


def _shard_path(output: UPath, split: Split, shard: int, count: int, size: int) -> UPath:
    return size_directory(output, size) / split / shard_name(shard, size, count)


def _missing_sizes(output: UPath, split: Split, shard: int, count: int, sizes: Sequence[int]) -> list[int]:
    return [size for size in sizes if not _shard_path(output, split, shard, count, size).exists()]


def write_planned_shard(directory: UPath, output: UPath, sizes: Sequence[int], task: tuple[Split, int]) -> int:
    """Write one shard at every size at which it is missing, image by image, each read and decoded once.

    Raises:
        InputError: a photograph is not what it was when it was scanned.
    """
    split, shard = task
    plan = read_table(output / "plan.csv", PlannedImage)
    labels = {name: label for label, name in enumerate(class_names(image.label for image in plan))}
    images = [image for image in plan if (image.split, image.shard) == task]
    missing = _missing_sizes(output, split, shard, len(images), sizes)
    with ExitStack() as stack:
        shards = {
            size: stack.enter_context(open_shard(_shard_path(output, split, shard, len(images), size)))
            for size in missing
        }
        for image in images:
            # Twice the pixels that are needed: libjpeg's averages and then Lanczos come close to Lanczos alone.
            picture = _decode_unchanged(directory / image.path, image, 2 * max(sizes))
            label = None if split == "test" else labels[image.label]
            for size, append in shards.items():
                append(encode_example(Record(image.id, square_jpeg(picture, size), label)))
    return len(images)


def _decode_unchanged(file: UPath, image: PlannedImage, least: int) -> Image:
    try:
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() == image.sha256:
            return decode(data, least)
        found = f"another (SHA-256 {hashlib.sha256(data).hexdigest()[:16]}...)"
    except OSError as error:
        found = error.strerror or str(error)
    except ValueError as error:  # where memory does not suffice, for one: the scan decodes smaller
        found = str(error)
    raise InputError(
        f"{file}: expected the file that was scanned (SHA-256 {image.sha256[:16]}...), found {found}. "
        "Put it back, or remove the output to have it written anew."
    )
