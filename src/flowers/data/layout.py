"""Find the shards of a data set in Kaggle's layout, and the record counts that their names declare."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from flowers.data.storage.remote import AnyPath, entries, open_root
from flowers.errors import InputError

log = logging.getLogger(__name__)

Place = TypeVar("Place", bound=AnyPath)
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

DOWNLOAD = "kaggle competitions download -c flower-classification-with-tpus"

_SHARD_NAME = re.compile(r"(?P<number>\d+)-(?P<size>\d+)x(?P=size)-(?P<count>\d+)\.tfrec")
_DIRECTORY_NAME = re.compile(r"tfrecords-jpeg-(?P<size>\d+)x(?P=size)")


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A shard, with its number and its record count from its name, or None if the name has none."""

    path: AnyPath
    count: int | None
    number: int | None = None

    @property
    def local(self) -> Path:
        """Return the path of a local shard."""
        assert isinstance(self.path, Path)
        return self.path


def find_root(root: str | Sequence[str], storage_options: Mapping[str, Any]) -> AnyPath:
    """Open a data set's directory, given as a path or URL. Of several, the first that exists is opened.

    A single directory need not exist: it may be generated later.

    Raises:
        InputError: none of several directories exists, or `open_root` raises one.
    """
    if isinstance(root, str):
        return open_root(root, storage_options)
    places = [open_root(place, storage_options) for place in root]
    for place in places:
        if entries(place) is not None:
            log.info("Reading the data set in %s", place)
            return place
    raise InputError(
        f"data.root: expected a data set in one of these, found none: {', '.join(map(str, places))}. In a notebook on "
        f"Kaggle, add the competition's data to it. Elsewhere download it:\n  {DOWNLOAD} -p {places[-1]}\n"
        f"  unzip -q {places[-1] / 'flower-classification-with-tpus.zip'} -d {places[-1]}"
    )


def find_roots(
    root: str | Sequence[str] | None, roots: Sequence[str] | None, storage_options: Mapping[str, Any]
) -> list[AnyPath]:
    """Open the directories of `roots` or, if there are none, the one of `root`.

    Raises:
        InputError: neither or both are given, or `find_root` raises one.
    """
    if roots and root is not None:
        raise InputError(
            f"data.roots: expected data.root=null, as it takes its place, found data.root={root}. Set data=tfrecords, "
            "or data.root=null."
        )
    if roots:
        return [find_root(place, storage_options) for place in roots]
    if root is None:
        raise InputError(
            "data.root: expected a directory or a URL, found none. Set data.root=DIR, or 'data.roots=[DIR,DIR]' for "
            "several data sets."
        )
    return [find_root(root, storage_options)]


def size_directory(root: Place, image_size: int) -> Place:
    """Return the directory of one resolution."""
    return cast(Place, root / f"tfrecords-jpeg-{image_size}x{image_size}")


def image_sizes(root: AnyPath) -> list[int]:
    """Return a data set's resolutions in pixels a side, ascending; an empty list if there is no data set.

    Raises:
        InputError: the data set's preparation is unfinished.
    """
    matches = (_DIRECTORY_NAME.fullmatch(directory.name) for directory in _finished_entries(root) or ())
    return sorted(int(match["size"]) for match in matches if match)


def shard_name(number: int, image_size: int, count: int) -> str:
    """Return a shard's file name: `00-192x192-798.tfrec`."""
    return f"{number:02d}-{image_size}x{image_size}-{count}.tfrec"


def find_shards(root: AnyPath, split: Split, image_size: int) -> list[ShardFile]:
    """Return the shards of a split at one resolution, in order of name.

    Raises:
        InputError: the data set, the resolution or the split is missing, the split is empty, or the data set's
            preparation is unfinished.
    """
    require_root(root)
    sized = size_directory(root, image_size)
    if entries(sized) is None:
        available = image_sizes(root)
        raise InputError(
            f"{sized}: no such directory: data.image_size={image_size} is not in this data set. "
            + (f"It has {available}: choose one of them." if available else f"Expected tfrecords-jpeg-SxS in {root}.")
        )
    shards = list_shards(root, split, image_size)
    if not shards:
        raise InputError(
            f"{sized / split}: expected shards named like {shard_name(0, image_size, 798)}, found none. "
            "Copy or download the data set again."
        )
    return shards


def list_shards(root: AnyPath, split: Split, image_size: int) -> list[ShardFile]:
    """Return the shards of a split at one resolution, in order of name; an empty list if there is no such directory.

    Raises:
        InputError: the directory cannot be read.
    """
    directory = size_directory(root, image_size) / split
    return [_shard_file(path) for path in entries(directory) or () if path.name.endswith(".tfrec")]


def _finished_entries(root: AnyPath) -> list[AnyPath] | None:
    """List a data set's directory. Raise if its preparation (`flowers.preparation.folder`) is unfinished."""
    found = entries(root)
    names = {path.name for path in found or ()}
    check_plan(root, names)
    plan = sorted(names & {"plan.csv", "prepare.json"})
    if plan and "manifest.csv" not in names:
        raise InputError(
            f"{root}: expected a finished data set, found {' and '.join(plan)} without manifest.csv: its preparation "
            "was stopped, or is still running. Run the same `python src/prepare.py folder` command again: it continues "
            "where it stopped."
        )
    return found


def check_plan(root: AnyPath, names: Collection[str]) -> None:
    """Check that a directory with the settings of its preparation also has the table of its images.

    A stopped preparation always leaves both. If the table is missing, it was removed or not copied.

    Args:
        root: the directory.
        names: the names of the files in it.

    Raises:
        InputError: the table is missing.
    """
    if "prepare.json" in names and "plan.csv" not in names and "manifest.csv" not in names:
        raise InputError(
            f"{root}: expected manifest.csv, the table of the images, found prepare.json without manifest.csv and "
            "plan.csv. Restore it. Or remove the directory, or set output to a new one, and prepare the data set "
            "again with `python src/prepare.py folder`."
        )


def require_root(root: AnyPath) -> list[AnyPath]:
    """List a data set's directory.

    Raises:
        InputError: there is no such directory, or its preparation is unfinished.
    """
    found = _finished_entries(root)
    if found is None and isinstance(root, Path):
        raise InputError(
            f"{root}: no such directory. Expected a data set in Kaggle's layout "
            "(tfrecords-jpeg-SxS/{train,val,test}). Set data.root, or its place in data.roots, to one, use the "
            f"built-in one with data=garden, or download the competition's:\n  {DOWNLOAD} -p {root}\n"
            f"  unzip -q {root / 'flower-classification-with-tpus.zip'} -d {root}"
        )
    if found is None:
        raise InputError(
            f"{root}: no such directory or bucket, or none that is visible without credentials. Expected a data set "
            "in Kaggle's layout (tfrecords-jpeg-SxS/{train,val,test}). Set data.root, or its place in "
            "data.roots, to one, or copy one there."
        )
    return found


def _shard_file(path: AnyPath) -> ShardFile:
    match = _SHARD_NAME.fullmatch(path.name)
    return ShardFile(path, int(match["count"]), int(match["number"])) if match else ShardFile(path, None)
