"""Shards are found in Kaggle's layout, and deviations from it are reported."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from upath import UPath

from flowers.data.class_names import read_class_names
from flowers.data.layout import find_root, find_shards, image_sizes
from flowers.errors import InputError


def test_shards_are_found_in_order(garden: Path) -> None:
    shards = find_shards(garden, "train", 192)
    assert [shard.path.name for shard in shards] == sorted(shard.path.name for shard in shards)
    assert sum(shard.count or 0 for shard in shards) == 208


def test_a_missing_data_set_is_refused_with_the_download_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)nowhere: .*kaggle competitions download"):
        find_shards(tmp_path / "nowhere", "train", 192)


def test_a_missing_resolution_is_refused_with_the_available_ones(garden: Path) -> None:
    with pytest.raises(InputError, match=r"data\.image_size=512 .*\[192, 224\]"):
        find_shards(garden, "train", 512)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tfrecords-jpeg-192x192" / "val").mkdir(parents=True)
    with pytest.raises(InputError, match=r"val: .*00-192x192-798\.tfrec"):
        find_shards(tmp_path, "val", 192)


def deny_access(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.parametrize("method", ["read_bytes", "iterdir"])
def test_an_unreadable_file_or_directory_is_reported(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "classes.txt").write_text("rose\n")
    monkeypatch.setattr(Path, method, deny_access)  # patched, as the superuser may read everything
    with pytest.raises(InputError, match=rf"^{tmp_path}.*Permission denied"):
        read_class_names(tmp_path)
    if method == "iterdir":
        with pytest.raises(InputError, match=rf"^{tmp_path}.*Permission denied"):
            find_shards(tmp_path, "train", 192)


def test_an_unreadable_split_is_reported(garden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: deny_access() if path.name == "train" else listed(path))
    with pytest.raises(InputError, match=rf"^{garden}/tfrecords-jpeg-192x192/train.*Permission denied"):
        find_shards(garden, "train", 192)


@pytest.mark.parametrize("plan", ["plan.csv", "prepare.json"])
@pytest.mark.parametrize("protocol", ["", "memory://test-unfinished"])
def test_an_unfinished_preparation_is_refused_wherever_a_data_set_is_opened(
    tmp_path: Path, protocol: str, plan: str
) -> None:
    root = UPath(f"{protocol}{tmp_path}")
    shard = root / "tfrecords-jpeg-192x192" / "train" / "00-192x192-1.tfrec"
    shard.parent.mkdir(parents=True)
    for path in (shard, root / plan):
        path.write_bytes(b"")
    for open_it in (lambda: find_shards(root, "train", 192), lambda: read_class_names(root), lambda: image_sizes(root)):
        with pytest.raises(InputError, match=rf"{plan} .*manifest\.csv.*prepare\.py folder"):
            open_it()
    (root / "manifest.csv").write_bytes(b"")
    assert len(find_shards(root, "train", 192)) == 1


def test_the_first_existing_root_is_read(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("competitions", "datasets", "data")]
    for place in places[1:]:
        place.mkdir()
    assert find_root([str(place) for place in places], {}) == places[1]
    with pytest.raises(InputError) as error:
        find_root([str(tmp_path / "a"), str(tmp_path / "b")], {})
    assert all(str(tmp_path / name) in str(error.value) for name in "ab")
    assert "kaggle competitions download" in str(error.value)


def test_a_single_root_may_be_generated_later(tmp_path: Path) -> None:
    assert find_root(str(tmp_path / "garden"), {}) == tmp_path / "garden"
