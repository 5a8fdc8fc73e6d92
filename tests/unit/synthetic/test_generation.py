"""The garden is deterministic, in Kaggle's layout, imbalanced like the real data set, and has lookalike pairs."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowers.data.class_names import kaggle_train_counts
from flowers.data.layout import SPLITS, find_shards
from flowers.data.tfrecord.example import decode_example
from flowers.data.tfrecord.framing import index_shard
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import InputError
from flowers.synthetic import Garden, generate, generation
from flowers.synthetic.drawing import draw_image, reduce_image
from flowers.synthetic.generation import image_id, proportional_counts, split_labels
from flowers.synthetic.species import LOOKALIKE_PAIRS, draw_species
from tests.conftest import TINY

SMALL = Garden(seed=0, train=16, val=16, test=16, sizes=(32, 48))


@pytest.fixture(scope="module")
def small_garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a garden of a few small images. Read only."""
    root = tmp_path_factory.mktemp("gardens") / "small"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "map_on_processes", map)  # starting processes takes longer than drawing
        generate(SMALL, root)
    return root


def test_species_and_images_depend_only_on_the_seed() -> None:
    first, again, other = draw_species(3, 104), draw_species(3, 104), draw_species(4, 104)
    assert first == again != other
    image = draw_image(first[5], np.random.default_rng(1))
    np.testing.assert_array_equal(image, draw_image(first[5], np.random.default_rng(1)))
    assert (image.shape, image.dtype) == ((512, 512, 3), np.uint8)
    assert (image != draw_image(first[5], np.random.default_rng(2))).any()


def test_all_species_differ() -> None:
    species = draw_species(0, 104)
    assert len(set(species)) == 104


def test_lookalikes_differ_in_lines_that_192_pixels_blur() -> None:
    species = draw_species(0, 104)
    pairs = [(a, b) for a, b in zip(species[::2], species[1::2], strict=True) if a.texture != "plain"]
    assert len(pairs) == LOOKALIKE_PAIRS
    losses = []
    for ringed, veined in pairs:
        assert dataclasses.replace(ringed, texture="veined") == veined
        one, other = (draw_image(kind, np.random.default_rng(9)) for kind in (ringed, veined))
        differences = [
            np.abs(reduce_image(one, size).astype(int) - reduce_image(other, size)).mean() for size in (512, 331, 192)
        ]
        losses.append(differences)
    at_512, at_331, at_192 = np.mean(losses, axis=0)
    assert at_192 < 0.25 * at_331 < 0.25 * at_512


@given(weights=st.lists(st.integers(1, 800), min_size=1, max_size=120), total=st.integers(0, 5000))
def test_counts_add_up_and_keep_the_proportions(weights: list[int], total: int) -> None:
    counts = proportional_counts(weights, total)
    assert sum(counts) == total
    floor = min(3, total // len(weights))
    exact = [floor + weight / sum(weights) * (total - floor * len(weights)) for weight in weights]
    assert all(abs(count - expected) < 1 for count, expected in zip(counts, exact, strict=True))


def test_every_split_has_every_class_and_the_real_imbalance() -> None:
    garden = Garden(0, 2400, 800, 400, (192,))
    for split in SPLITS:
        assert set(split_labels(garden, split)) == set(range(104))
    counts = np.bincount(split_labels(garden, "train"))
    assert np.corrcoef(counts, kaggle_train_counts())[0, 1] > 0.99


def test_ids_are_distinct_hex_of_nine_digits() -> None:
    garden = Garden(0, 2400, 800, 400, (192,))
    counts = {"train": 2400, "val": 800, "test": 400}
    ids = [image_id(garden, split, number) for split in SPLITS for number in range(counts[split])]
    assert len(set(ids)) == 3600
    assert all(len(identity) == 9 and int(identity, 16) >= 0 for identity in ids)


def test_shards_hold_the_same_records_at_every_size(small_garden: Path) -> None:
    for split in SPLITS:
        by_size = []
        for size in SMALL.sizes:
            reader = ShardReader([index_shard(shard.path) for shard in find_shards(small_garden, split, size)])
            records = [
                decode_example(reader[number], labelled=split != "test", where="") for number in range(len(reader))
            ]
            by_size.append(sorted((record.id, record.label) for record in records))
        assert by_size[0] == by_size[1]
    assert sorted(label for _, label in by_size[0] if label is not None) == []


def test_the_garden_is_generated_once_and_replaces_nothing_else(small_garden: Path, tmp_path: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in small_garden.rglob("*"))
    generate(SMALL, small_garden)
    assert sorted((path, path.stat().st_mtime_ns) for path in small_garden.rglob("*")) == before
    with pytest.raises(InputError, match=rf'^{small_garden}: .*"seed": 1\b.*found .*"seed": 0\b'):
        generate(dataclasses.replace(SMALL, seed=1), small_garden)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"garden\.json.*data=tfrecords"):
        generate(SMALL, tmp_path / "mine")


def test_a_garden_that_cannot_be_completed_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Garden, root: Path) -> None:
        root.mkdir()
        (root / "classes.txt").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "shard")

    (tmp_path / "garden.0123456789abcdef.part").mkdir()  # of a killed process
    monkeypatch.setattr(generation, "_write", full)
    with pytest.raises(InputError, match="No space left"):
        generate(TINY, tmp_path / "garden")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_without_space_is_reported_with_the_directory(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code), "shard")

    monkeypatch.setattr(generation, "_write", refuse)
    with pytest.raises(InputError, match=rf"^{tmp_path}/garden: .*{os.strerror(code)}.*data\.root"):
        generate(Garden(0, 1, 1, 1, [8]), tmp_path / "garden")


def test_a_directory_below_a_file_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"^{tmp_path}/file/garden: "):
        generate(Garden(0, 1, 1, 1, [8]), tmp_path / "file" / "garden")
