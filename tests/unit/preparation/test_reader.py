"""Photographs are read as the records that `prepare.py folder` writes of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from upath import UPath

from flowers.data.dataset import open_splits
from flowers.data.tfrecord.example import decode_example
from flowers.errors import BadRecord, InputError
from flowers.preparation.plan import PlannedImage
from flowers.preparation.reader import PhotographReader
from flowers.preparation.tables import read_table
from tests.helpers.photographs import SETTINGS, draw_photograph, encode_image

SIZE = max(SETTINGS.sizes)


def test_the_images_are_those_of_a_prepared_set(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    reader = PhotographReader(str(photographs), SIZE)
    assert reader.paths == sorted(path.relative_to(photographs).as_posix() for path in photographs.rglob("*.jpg"))
    prepared_reader, _ = open_splits(prepared, ["test"], SIZE, "stop", tmp_path)
    rows = [row for row in read_table(UPath(prepared) / "manifest.csv", PlannedImage) if row.split == "test"]
    for number, row in enumerate(rows):
        record = decode_example(reader.read(reader.paths.index(row.path)), labelled=False, where="")
        expected = decode_example(prepared_reader.read(number), labelled=False, where="")
        assert (record.id, record.image) == (row.path, expected.image)


def test_a_worker_reads_the_same(photographs: Path) -> None:
    reader = PhotographReader(str(photographs), SIZE)
    assert pickle.loads(pickle.dumps(reader)).read(3) == reader.read(3)


def test_one_file_is_read(photographs: Path) -> None:
    path = next(photographs.rglob("*.jpg"))
    reader = PhotographReader(str(path), SIZE)
    assert (len(reader), reader.paths, reader.where(0)) == (1, [path.name], str(path))


def test_hidden_and_other_files_are_ignored(tmp_path: Path) -> None:
    for name in ("a.JPG", "b/c.png", ".hidden.jpg", "b/.trash/d.jpg", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encode_image(draw_photograph(1)))
    assert PhotographReader(str(tmp_path), SIZE).paths == ["a.JPG", "b/c.png"]


def test_photographs_behind_a_url_are_read() -> None:
    directory = UPath("memory://photographs-to-predict")
    (directory / "new").mkdir(parents=True)
    (directory / "new/1.jpg").write_bytes(encode_image(draw_photograph(1)))
    reader = PhotographReader(str(directory), SIZE)
    assert reader.is_remote and reader.paths == ["new/1.jpg"]
    assert decode_example(reader.read(0), labelled=False, where="").id == "new/1.jpg"


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"text")
    with pytest.raises(BadRecord, match=rf"{tmp_path}/bad\.jpg: .*on_bad_record=skip"):
        PhotographReader(str(tmp_path), SIZE).read(0)


@pytest.mark.parametrize("source", ["", "nowhere"])
def test_a_source_without_images_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"photographs={tmp_path / source}"):
        PhotographReader(str(tmp_path / source), SIZE)
