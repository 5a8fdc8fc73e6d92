"""Generate the garden: images of every species as TFRecord shards in Kaggle's layout, at several resolutions."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from filelock import FileLock

from flowers.data.class_names import kaggle_class_names, kaggle_train_counts
from flowers.data.layout import SPLITS, Split, shard_name, size_directory
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.framing import write_shard
from flowers.errors import InputError
from flowers.progress import progress
from flowers.settings import Positive, Seed
from flowers.synthetic.drawing import draw_image, reduce_image
from flowers.synthetic.species import Species, draw_species
from flowers.system.atomic import atomic_path, remove_parts, write_atomic
from flowers.system.processes import map_on_processes

log = logging.getLogger(__name__)

SHARDS = 16
"""Shards per split, as in the competition's data."""

JPEG_QUALITY = 90

_VERSION = 1  # of the drawing: increased when the same seed draws other images
_MANIFEST = "garden.json"


@dataclass(frozen=True, slots=True)
class Garden:
    """The synthetic data set, as a callable that generates it in a directory: see `generate`.

    Args:
        seed: the seed of labels and drawings.
        train: the number of images of the train split.
        val: the number of images of the val split.
        test: the number of images of the test split.
        sizes: the resolutions, in pixels a side.
    """

    seed: Seed
    train: Positive
    val: Positive
    test: Positive
    sizes: Sequence[Positive]

    def __call__(self, root: Path) -> None:
        """Generate the data set in `root`, unless it exists."""
        generate(self, root)

    def manifest(self) -> str:
        """Return the text of `garden.json`, which identifies the data set."""
        return json.dumps({"version": _VERSION, **asdict(self), "sizes": sorted(self.sizes)}, indent=2) + "\n"


def generate(garden: Garden, root: Path) -> None:
    """Write the garden into `root` unless it exists. Any number of processes may call this at once.

    Raises:
        InputError: `root` holds another garden, or something else, or cannot be written.
    """
    try:
        if not root.exists():
            _generate_new(garden, root)
        _check_same(garden, root)
    except OSError as error:
        raise InputError(
            f"{root}: expected to write the garden here, found this: {error.strerror or error} "
            f"({error.filename}). Set data.root or paths.data_dir to another directory."
        ) from error


def _generate_new(garden: Garden, root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if root.exists():  # another process was first
            return
        log.info("Generating the data set in %s: %d images, once", root, garden.train + garden.val + garden.test)
        remove_parts(root)
        with atomic_path(root) as unfinished:
            _write(garden, unfinished)


def _check_same(garden: Garden, root: Path) -> None:
    manifest = root / _MANIFEST
    if not manifest.exists():
        raise InputError(
            f"{root}: expected a garden, found a directory without {_MANIFEST}. If it is a data set, read it with "
            f"data=tfrecords data.root={root}; to generate the garden, set data.root to a new "
            "directory."
        )
    found = manifest.read_text()
    if found != garden.manifest():
        raise InputError(
            f"{root}: expected the garden {' '.join(garden.manifest().split())}, found {' '.join(found.split())}. "
            "Remove that directory to have it generated again, or set data.root to another."
        )


def _write(garden: Garden, root: Path) -> None:
    for size in garden.sizes:
        for split in SPLITS:
            (size_directory(root, size) / split).mkdir(parents=True)
    write_atomic(root / "classes.txt", "\n".join(kaggle_class_names()) + "\n")
    species = draw_species(garden.seed, len(kaggle_class_names()))
    write = partial(_write_shard, garden, species, root)
    shards = [(split, number) for split in SPLITS for number in range(SHARDS)]
    for _ in progress(map_on_processes(write, shards), "Generating images", len(shards)):
        pass
    write_atomic(root / _MANIFEST, garden.manifest())


def _write_shard(garden: Garden, species: Sequence[Species], root: Path, place: tuple[Split, int]) -> None:
    """Draw the images of one shard and write them at every size. `place` is the shard's split and number."""
    split, shard = place
    cv2.setNumThreads(1)  # the processes are the parallelism
    labels = split_labels(garden, split)
    numbers = range(shard, len(labels), SHARDS)
    payloads: dict[int, list[bytes]] = {size: [] for size in garden.sizes}
    for number in numbers:
        drawn = draw_image(species[labels[number]], np.random.default_rng([garden.seed, *split.encode(), number]))
        label = None if split == "test" else int(labels[number])
        for size in garden.sizes:
            jpeg = simplejpeg.encode_jpeg(reduce_image(drawn, size), quality=JPEG_QUALITY, colorsubsampling="420")
            payloads[size].append(encode_example(Record(image_id(garden, split, number), jpeg, label)))
    for size in garden.sizes:
        write_shard(size_directory(root, size) / split / shard_name(shard, size, len(numbers)), payloads[size])


def image_id(garden: Garden, split: Split, number: int) -> str:
    """Return an image's id: 9 hex digits, unique, in no order that a model could learn."""
    counts = (garden.train, garden.val, garden.test)
    place = sum(counts[: SPLITS.index(split)]) + number
    return f"{(place * 0x9E3779B97 + 0x5DEECE66D) % 2**36:09x}"  # an odd factor: a bijection


def split_labels(garden: Garden, split: Split) -> list[int]:
    """Return the label of every image of a split, in order. Test has labels here too, but not in its shards."""
    total = {"train": garden.train, "val": garden.val, "test": garden.test}[split]
    counts = proportional_counts(kaggle_train_counts(), total)
    labels = np.repeat(np.arange(len(counts)), counts)
    rng = np.random.default_rng([garden.seed, *split.encode()])
    return [int(label) for label in rng.permutation(labels)]


def proportional_counts(weights: Sequence[int], total: int, minimum: int = 3) -> list[int]:
    """Divide `total` in proportion to `weights`, at least `minimum` each if `total` suffices.

    After everyone has the minimum, the rest is divided by the largest-remainder method (Hamilton's method).
    """
    minimum = min(minimum, total // len(weights))
    rest = total - minimum * len(weights)
    exact = np.array(weights) / sum(weights) * rest
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: rest - counts.sum()]] += 1
    return [int(count) + minimum for count in counts]
