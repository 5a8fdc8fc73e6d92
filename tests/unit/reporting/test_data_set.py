"""The description of a data set agrees with what its shards hold."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from flowers.cli import compose
from flowers.data.datamodule import FlowersDataModule
from flowers.data.layout import find_shards, shard_name
from flowers.data.tfrecord.framing import write_shard
from flowers.reporting.data_set import count_classes, list_stored_splits, read_at_all_sizes
from flowers.synthetic.generation import split_labels
from flowers.training.pair import make_data
from tests.conftest import TINY


def make_data_module(root: Path, *settings: str) -> FlowersDataModule:
    datamodule = make_data(compose("train", ["data=tfrecords", f"data.root={root}", *settings]).data)
    assert isinstance(datamodule, FlowersDataModule)
    return datamodule


def test_every_split_is_listed_at_every_resolution(garden: Path) -> None:
    stored = list_stored_splits(garden)
    expected = {"train": TINY.train, "val": TINY.val, "test": TINY.test}
    assert [(part.split, part.image_size, part.records) for part in stored] == [
        (split, size, records) for split, records in expected.items() for size in TINY.sizes
    ]
    assert all(len(list(Path(part.directory).glob("*.tfrec"))) == part.shards for part in stored)


def test_nothing_is_listed_without_a_data_set(tmp_path: Path) -> None:
    assert list_stored_splits(tmp_path) == []


def test_classes_are_counted(garden: Path) -> None:
    expected = Counter(split_labels(TINY, "train"))
    assert count_classes(make_data_module(garden), "train").tolist() == [expected[label] for label in range(104)]


def test_folds_are_counted_by_their_own_records(garden: Path) -> None:
    parts = [
        count_classes(make_data_module(garden, "data.folds=4", "data.fold=1"), split).sum()
        for split in ("train", "val")
    ]
    assert sum(parts) == TINY.train + TINY.val and 0 < parts[1] < parts[0]


@pytest.mark.parametrize("moved", [False, True], ids=["in the same order", "in another order"])
def test_one_image_is_found_at_all_resolutions(garden: Path, tmp_path: Path, moved: bool) -> None:
    root = tmp_path / "garden"
    shutil.copytree(garden, root)
    if moved:
        reverse_shards(root, 224)
    number = 5
    images = read_at_all_sizes(make_data_module(root), "val", number)
    assert {size: image.shape for size, image in images.items()} == {size: (size, size, 3) for size in TINY.sizes}
    small, large = (np.array([part.mean() for part in halves(image)]) for image in images.values())
    assert np.abs(small - large).max() < 3  # the same pattern; those of other images differ by more
    others = read_at_all_sizes(make_data_module(root), "val", number + 1)
    assert np.abs(small - [part.mean() for part in halves(others[192])]).max() > 3


def reverse_shards(root: Path, size: int) -> None:
    """Store the validation records of one resolution in reverse order, in a single shard."""
    dataset = make_data_module(root, f"data.image_size={size}").dataset("val")
    payloads = [dataset.reader[number] for number in reversed(range(len(dataset)))]
    directory = find_shards(root, "val", size)[0].local.parent
    for path in directory.iterdir():
        path.unlink()
    write_shard(directory / shard_name(0, size, len(payloads)), payloads)


def halves(image: np.ndarray) -> list[np.ndarray]:
    """Return the upper, lower, left and right half of an image."""
    middle = len(image) // 2
    return [image[:middle], image[middle:], image[:, :middle], image[:, middle:]]
