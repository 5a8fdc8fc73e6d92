"""Make the plan of a data set before the first shard is written. The plan of a finished data set is its manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from flowers.data.layout import SPLITS, Split
from flowers.errors import InputError
from flowers.preparation.manifest import PlannedImage, UnreadableImage
from flowers.preparation.scan import Scan
from flowers.preparation.source import Photograph, class_names
from flowers.preparation.split import hash_words, near_duplicate_groups, stratified_split
from flowers.settings import Positive, Seed

ID_DIGITS = 9  # as in the competition's data

MIN_RECORDS = 32
"""Records in a shard, at least: a small data set gets fewer shards, so that none is nearly empty."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that determine the output; `configs/prepare_folder.yaml` explains each."""

    sizes: Annotated[tuple[Positive, ...], Field(min_length=1)]
    val: Annotated[float, Field(ge=0, lt=1)]
    test: Annotated[float, Field(ge=0, lt=1)]
    seed: Seed
    shards: Positive
    duplicate_distance: Annotated[int, Field(ge=0, le=80)]  # beyond about 80, unrelated photographs are as near
    on_bad_image: Literal["stop", "skip"]

    @classmethod
    def from_config(cls, config: Mapping[Any, Any]) -> Settings:
        """Return the settings of a composed `configs/prepare_folder.yaml`, with the sizes sorted and without repeats.

        Raises:
            InputError: val and test leave nothing for train.
        """
        values = {field.name: config[field.name] for field in fields(cls)}
        settings = cls(**{**values, "sizes": tuple(sorted(set(values["sizes"])))})
        if settings.val + settings.test >= 1:
            raise InputError(
                f"val={settings.val} test={settings.test}: expected less than 1 together. Leave a part for train."
            )
        return settings


@dataclass(frozen=True, slots=True)
class FolderSettings(Settings):
    """The settings of `python src/prepare.py folder`: those of the plan, the source, the output and the runner."""

    source: str
    output: str
    runner: str | None
    runner_options: list[str]


def make_plan(photographs: Sequence[Photograph], scans: Mapping[str, Scan], settings: Settings) -> list[PlannedImage]:
    """Assign each photograph an id, a split, a group and a shard: a pure function of its arguments.

    Args:
        photographs: the readable photographs.
        scans: their scans, by path.
        settings: the settings.

    Raises:
        InputError: a requested split would be empty.
    """
    numbers = {name: label for label, name in enumerate(class_names(photograph.label for photograph in photographs))}
    labels = np.array([numbers[photograph.label] for photograph in photographs], np.int64)
    words = hash_words([scans[photograph.path].hash for photograph in photographs])
    groups = near_duplicate_groups(words, settings.duplicate_distance)
    splits = stratified_split(labels, groups, settings.val, settings.test, settings.seed)
    _check_splits(splits, settings)
    ids = image_ids([photograph.path for photograph in photographs])
    plan: list[PlannedImage] = []
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([settings.seed, *split.encode()])
        for shard, members in enumerate(deal(np.flatnonzero(splits == number), settings.shards, rng)):
            for member in members:
                image, scan = photographs[member], scans[photographs[member].path]
                group = int(groups[member])
                where = (ids[member], image.path, image.label, split, group, shard)
                plan.append(PlannedImage(*where, image.bytes, scan.sha256, scan.hash))
    return plan


def _check_splits(splits: NDArray[np.int64], settings: Settings) -> None:
    counts = np.bincount(splits, minlength=len(SPLITS))
    for split, fraction, count in (("val", settings.val, counts[1]), ("test", settings.test, counts[2])):
        if fraction > 0 and count == 0:
            raise InputError(
                f"{split}={fraction}: expected enough images for it, found {len(splits)}, but no class can spare one "
                f"(near-duplicates stay together). Add images, raise {split}, or set {split}=0."
            )


def deal(members: NDArray[np.int64], shards: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Deal a split's members, int64 `[N]`, to shards in random order. The sizes of the shards differ by at most one."""
    count = max(1, min(shards, len(members) // MIN_RECORDS))
    return np.array_split(rng.permutation(members), count) if len(members) else []


def image_ids(paths: Sequence[str]) -> list[str]:
    """Return an id for each path, from the path alone: 9 hex digits, or more for all ids if two would be equal."""
    digests = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    digits = ID_DIGITS
    while len({digest[:digits] for digest in digests}) < len(set(paths)):
        digits += 1
    return [digest[:digits] for digest in digests]


def settings_json(settings: Settings) -> str:
    """Return the settings as the text of `prepare.json`."""
    return json.dumps(asdict(settings), indent=2) + "\n"


def settings_differences(found: Mapping[str, Any], settings: Settings) -> list[str]:
    """Describe each setting that differs from an output's `prepare.json`, as `seed: 42 there, 43 here`."""
    wanted = json.loads(settings_json(settings))
    keys = [*wanted, *(key for key in found if key not in wanted)]
    return [
        f"{key}: {found.get(key)} there, {wanted.get(key)} here" for key in keys if found.get(key) != wanted.get(key)
    ]


def source_differences(
    planned: Sequence[PlannedImage | UnreadableImage], photographs: Sequence[Photograph]
) -> list[str]:
    """Describe each photograph that was added, removed or changed since the plan was made."""
    before = {image.path: (image.label, image.bytes) for image in planned}
    now = {image.path: (image.label, image.bytes) for image in photographs}
    return [
        *(f"{path}: not there then" for path in sorted(now.keys() - before.keys())),
        *(f"{path}: not there now" for path in sorted(before.keys() - now.keys())),
        *(
            f"{path}: {before[path][0]}, {before[path][1]} bytes then; {now[path][0]}, {now[path][1]} bytes now"
            for path in sorted(now.keys() & before.keys())
            if now[path] != before[path]
        ),
    ]


def equal_files_of_several_classes(plan: Sequence[PlannedImage]) -> list[str]:
    """Return files that are equal byte for byte but have different labels, one line for each set of them."""
    alike: dict[str, list[PlannedImage]] = {}
    for image in sorted(plan, key=lambda image: image.path):
        alike.setdefault(image.sha256, []).append(image)
    return [
        " = ".join(f"{image.path} ({image.label})" for image in images)
        for images in alike.values()
        if len({image.label for image in images}) > 1
    ]


def groups_of_several_classes(plan: Sequence[PlannedImage]) -> int:
    """Return how many groups of near-duplicates hold images of more than one class."""
    pairs = {(image.group, image.label) for image in plan}
    return sum(count > 1 for count in Counter(group for group, _ in pairs).values())


def classes_without(plan: Sequence[PlannedImage], split: Split) -> list[str]:
    """Return the classes that have no image in a split."""
    present = {image.label for image in plan if image.split == split}
    return [name for name in class_names(image.label for image in plan) if name not in present]
