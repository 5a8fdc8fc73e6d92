"""Photographs are prepared as shards, restarts complete them, and unusable sources are refused."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import os
import pickle
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from upath import UPath

from flowers.data.class_names import read_class_names
from flowers.data.dataset import FlowersDataset, open_splits
from flowers.data.layout import SPLITS, find_shards
from flowers.data.transforms import SeededTransform
from flowers.errors import UNWRITABLE, InputError
from flowers.preparation import folder
from flowers.preparation.folder import prepare_folder
from flowers.preparation.images import decode, square_jpeg
from flowers.preparation.manifest import PlannedImage
from flowers.preparation.runner import run_on_processes
from flowers.preparation.tables import read_table
from tests.helpers.photographs import (
    SETTINGS,
    draw_photograph,
    encode_image,
    read_files,
    run_serially,
    write_class_folders,
)


def read_manifest(output: Path) -> list[PlannedImage]:
    return read_table(UPath(output) / "manifest.csv", PlannedImage)


def open_dataset(output: Path, split: Any, size: int) -> FlowersDataset:
    reader, problems = open_splits(output, [split], size, "stop", output.parent / "cache")
    assert problems == []
    return FlowersDataset(
        reader,
        image_size=size,
        class_names=read_class_names(output),
        labelled=split != "test",
        transform=SeededTransform([], seed=0),
        on_bad_record="stop",
    )


@pytest.mark.parametrize("size", SETTINGS.sizes)
@pytest.mark.parametrize("split", SPLITS)
def test_our_reader_finds_the_records_of_the_manifest(photographs: Path, prepared: Path, split: str, size: int) -> None:
    data = open_dataset(prepared, split, size)
    rows = [row for row in read_manifest(prepared) if row.split == split]
    records = [data.record(number) for number in range(len(data))]
    assert [record.id for record in records] == [row.id for row in rows]
    names = read_class_names(prepared)
    assert [record.label for record in records] == [None if split == "test" else names.index(row.label) for row in rows]
    for number in (0, len(rows) - 1):
        original = (photographs / rows[number].path).read_bytes()
        expected = simplejpeg.decode_jpeg(square_jpeg(decode(original, 10_000), size), colorspace="RGB")
        np.testing.assert_array_equal(data[number].image, expected)


def test_every_photograph_is_in_exactly_one_split(photographs: Path, prepared: Path) -> None:
    rows = read_manifest(prepared)
    assert sorted(row.path for row in rows) == sorted(
        path.relative_to(photographs).as_posix() for path in photographs.rglob("*.jpg")
    )
    assert all(row.path.startswith(f"{row.label}/") for row in rows)
    assert all(row.sha256 == hashlib.sha256((photographs / row.path).read_bytes()).hexdigest() for row in rows)
    assert read_class_names(prepared) == ["rose", "wild daisy", "Ähre"]
    counts = Counter((row.label, row.split) for row in rows)
    assert [counts["rose", split] for split in SPLITS] == [84, 18, 18]
    assert [counts["wild daisy", split] for split in SPLITS] == [42, 9, 9]
    assert [counts["Ähre", split] for split in SPLITS] == [14, 3, 3]
    names = {path.relative_to(prepared).as_posix() for path in prepared.glob("*/*/*") if path.suffix != ".tfindex"}
    assert names == {
        f"tfrecords-jpeg-{size}x{size}/{split}/{number:02d}-{size}x{size}-{count}.tfrec"
        for size in SETTINGS.sizes
        for split, sizes in {"train": (35, 35, 35, 35), "val": (30,), "test": (30,)}.items()
        for number, count in enumerate(sizes)
    }


def test_processes_write_the_same_bytes(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    prepare_folder(str(photographs), str(tmp_path / "output"), SETTINGS, run_on_processes)
    assert read_files(tmp_path / "output") == read_files(prepared)


def test_a_csv_of_the_same_photographs_gives_the_same_set(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    root = tmp_path / "with a list"
    shutil.copytree(photographs, root)
    lines = [f"{path.relative_to(root).as_posix()},{path.parent.name}" for path in root.rglob("*.jpg")]
    (root / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    prepare_folder(str(root / "list.csv"), str(root / "output"), SETTINGS, run_serially)  # beside the photographs
    assert read_files(root / "output") == read_files(prepared)


class Stopped(Exception):
    """Raised between two tasks in place of a kill."""


@pytest.mark.parametrize("stop", range(8))
def test_a_run_stopped_between_any_two_tasks_can_be_continued(
    photographs: Path, prepared: Path, tmp_path: Path, stop: int
) -> None:
    done: list[str] = []

    def stop_after(limit: int) -> Callable[..., None]:
        def run_tasks(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
            for task in tasks:
                if len(done) >= limit:
                    raise Stopped
                done.append(f"{description} {hashlib.sha256(repr(task).encode()).hexdigest()}")
                work(task)

        return run_tasks

    output = tmp_path / "output"
    with pytest.raises(Stopped):
        prepare_folder(str(photographs), str(output), SETTINGS, stop_after(stop))
    assert not (output / "manifest.csv").exists()
    prepare_folder(str(photographs), str(output), SETTINGS, stop_after(99))
    assert read_files(output) == read_files(prepared)
    # Two parts to scan (the 72 photographs after the first are divided again if it is missing), six shards to write.
    assert len(done) == len(set(done)) == 8


@pytest.mark.parametrize("protocol", ["", "memory://test-stopped"])
def test_a_run_stopped_before_its_end_leaves_no_data_set(photographs: Path, tmp_path: Path, protocol: str) -> None:
    output = UPath(f"{protocol}{tmp_path}/output")

    def run_some(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
        for task in tasks if description == "Scanning" else tasks[:4]:  # train is complete, val and test are missing
            work(task)
        if description == "Writing":
            raise Stopped

    with pytest.raises(Stopped):
        prepare_folder(str(photographs), str(output), SETTINGS, run_some)
    assert (output / "classes.txt").read_text("utf-8").splitlines() == ["rose", "wild daisy", "Ähre"]
    for opens in (lambda: find_shards(output, "train", 48), lambda: read_class_names(output)):
        with pytest.raises(InputError, match=r"manifest\.csv.*prepare\.py folder"):
            opens()
    prepare_folder(str(photographs), str(output), SETTINGS, run_serially)
    assert len(find_shards(output, "val", 48)) == 1


def cut(shard: UPath) -> None:
    shard.write_bytes(shard.read_bytes()[:-1000])


def empty(shard: UPath) -> None:
    shard.write_bytes(b"")


def exchange(shard: UPath) -> None:
    """Replace 35 records by the 30 of val, as by a mistaken copy."""
    shard.write_bytes(next((shard.parents[1] / "val").glob("*.tfrec")).read_bytes())


@pytest.mark.parametrize(
    ("damage", "protocol"), [(cut, ""), (empty, ""), (exchange, ""), (empty, "memory://test-restart")]
)
@pytest.mark.parametrize("finished", [False, True])
def test_a_restart_rewrites_incomplete_shards(
    photographs: Path,
    prepared: Path,
    tmp_path: Path,
    damage: Callable[[UPath], None],
    protocol: str,
    finished: bool,
) -> None:
    output = UPath(f"{protocol}{tmp_path}/output{finished}{damage.__name__}")
    prepare_folder(str(photographs), str(output), SETTINGS, run_serially)
    if not finished:
        (output / "manifest.csv").rename(output / "plan.csv")
    damage(output / "tfrecords-jpeg-64x64" / "train" / "02-64x64-35.tfrec")
    written: list[Any] = []

    def record_tasks(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
        written.extend(tasks)
        run_serially(work, tasks, description, total)

    prepare_folder(str(photographs), str(output), SETTINGS, record_tasks)
    assert len(written) == 1
    found = {str(path.path).removeprefix(f"{output.path}/"): path.read_bytes() for path in output.rglob("*.tfrec")}
    assert found == {name: data for name, data in read_files(prepared).items() if name.endswith(".tfrec")}
    assert (output / "manifest.csv").read_bytes() == (prepared / "manifest.csv").read_bytes()


def test_the_partial_files_of_a_killed_run_are_removed(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    for name in ("plan.csv", "scan/0.csv", "tfrecords-jpeg-48x48/train/00-48x48-35.tfrec"):
        (output / name).parent.mkdir(parents=True, exist_ok=True)
        for token in ("", ".0123456789abcdef"):
            (output / f"{name}{token}.part").touch()
    shutil.rmtree(output / "tfrecords-jpeg-48x48")  # exists only together with prepare.json
    prepare_folder(str(photographs), str(output), SETTINGS, run_serially)
    assert read_files(output) == read_files(prepared)
    (output / "tfrecords-jpeg-48x48" / "train" / "00-48x48-35.tfrec.0123456789abcdef.part").touch()
    prepare_folder(str(photographs), str(output), SETTINGS, run_serially)
    assert read_files(output) == read_files(prepared)


def test_a_task_contains_only_its_own_rows(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"

    def without_plan(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
        if description == "Writing":
            (output / "plan.csv").rename(tmp_path / "plan.csv")
            assert len(pickle.dumps(tasks)) < 200 * total
        run_serially(work, tasks, description, total)
        if description == "Writing":
            (tmp_path / "plan.csv").rename(output / "plan.csv")

    prepare_folder(str(photographs), str(output), SETTINGS, without_plan)
    assert read_files(output) == read_files(prepared)


def test_a_finished_preparation_does_nothing(photographs: Path, prepared: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.name != ".lock"}

    def fail_on_tasks(*_: Any) -> None:
        raise AssertionError("no task is left")

    prepare_folder(str(photographs), str(prepared), SETTINGS, fail_on_tasks)
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*") if path.name != ".lock"} == before


def test_other_settings_or_another_source_are_refused(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\n  seed: 42 .*\b7\b.*\n"):
        prepare_folder(str(photographs), str(prepared), dataclasses.replace(SETTINGS, seed=7), run_serially)
    changed = tmp_path / "changed"
    shutil.copytree(photographs, changed)
    (changed / "rose" / "new.jpg").write_bytes(encode_image(draw_photograph(999)))
    with pytest.raises(InputError, match=r"\n  rose/new\.jpg: "):
        prepare_folder(str(changed), str(prepared), SETTINGS, run_serially)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"mine: .*thesis\.txt"):
        prepare_folder(str(photographs), str(tmp_path / "mine"), SETTINGS, run_serially)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    for inside in (changed, changed / "output"):
        with pytest.raises(InputError, match="outside the source"):
            prepare_folder(str(changed), str(inside), SETTINGS, run_serially)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"{tmp_path}/file: "):
        prepare_folder(str(photographs), str(tmp_path / "file"), SETTINGS, run_serially)


@pytest.mark.parametrize("protocol", ["", "memory://test-copied"])
def test_settings_without_a_plan_are_refused(photographs: Path, prepared: Path, tmp_path: Path, protocol: str) -> None:
    output = UPath(f"{protocol}{tmp_path}/output")
    for name, data in read_files(prepared).items():
        if name != "manifest.csv":
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            (output / name).write_bytes(data)
    for opens in (
        lambda: prepare_folder(str(photographs), str(output), SETTINGS, run_serially),
        lambda: find_shards(output, "train", 48),
    ):
        with pytest.raises(InputError, match=r"prepare\.json.*manifest\.csv.*plan\.csv") as raised:
            opens()
        assert "command again" not in str(raised.value)
    assert not (output / "plan.csv").exists()
    assert (output / "tfrecords-jpeg-48x48" / "val").is_dir()


def test_an_output_inside_the_source_by_a_link_is_refused(photographs: Path, tmp_path: Path) -> None:
    source = shutil.copytree(photographs, tmp_path / "source")
    (tmp_path / "link").symlink_to(source / "rose")
    (tmp_path / "alias").symlink_to(source)
    for given, output in ((source, "link/output"), (source, "alias"), (tmp_path / "alias", "source/output")):
        with pytest.raises(InputError, match="outside the source"):
            prepare_folder(str(given), str(tmp_path / output), SETTINGS, run_serially)
    assert read_files(source) == read_files(photographs)


def change_at_equal_size(file: Path) -> None:
    data = file.read_bytes()
    status = file.stat()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("finished", [False, True])
def test_a_photograph_changed_at_equal_size_is_reported(photographs: Path, tmp_path: Path, finished: bool) -> None:
    source, output = shutil.copytree(photographs, tmp_path / "source"), tmp_path / "output"
    prepare_folder(str(source), str(output), SETTINGS, run_serially)
    if not finished:  # its own shard is complete, and another is missing
        (output / "manifest.csv").rename(output / "plan.csv")
        next((output / "tfrecords-jpeg-48x48" / "test").glob("*.tfrec")).unlink()
    table = read_table(UPath(output) / ("manifest.csv" if finished else "plan.csv"), PlannedImage)
    path = next(row.path for row in table if row.split == "train")
    change_at_equal_size(source / path)
    with pytest.raises(InputError, match=rf"\n  {path}: .*\bcontent\b.*\n"):
        prepare_folder(str(source), str(output), SETTINGS, run_serially)


def test_a_bad_image_fixed_after_the_end_is_reported(tmp_path: Path) -> None:
    source, output = write_class_folders(tmp_path / "source", {"a": 20, "b": 20}), tmp_path / "output"
    good = (source / "a" / "0003.jpg").read_bytes()
    (source / "a" / "0003.jpg").write_bytes(good[:200] + bytes(len(good) - 200))
    skip = dataclasses.replace(SETTINGS, on_bad_image="skip")
    for _ in range(2):
        prepare_folder(str(source), str(output), skip, run_serially)
    (source / "a" / "0003.jpg").write_bytes(good)
    with pytest.raises(InputError, match=r"\n  a/0003\.jpg: .*\bread\b"):
        prepare_folder(str(source), str(output), skip, run_serially)


def test_an_output_that_cannot_be_listed_is_reported(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(folder, "entries", refuse)
    with pytest.raises(InputError, match=r"output: .*Permission denied"):
        prepare_folder(str(photographs), str(tmp_path / "output"), SETTINGS, run_serially)


@pytest.mark.parametrize("name", ["manifest.csv", "prepare.json", "tfrecords-jpeg-48x48/val/00-48x48-30.tfrec"])
def test_an_unreadable_file_of_the_output_is_reported(
    photographs: Path, prepared: Path, tmp_path: Path, name: str
) -> None:
    output = shutil.copytree(prepared, tmp_path / "output")
    (output / name).unlink()
    (output / name).mkdir()  # not even the superuser may read it
    with pytest.raises(InputError, match=f"{output / name}: .*Is a directory"):
        prepare_folder(str(photographs), str(output), SETTINGS, run_serially)


@pytest.mark.parametrize("code", sorted(UNWRITABLE))
def test_a_disk_that_cannot_be_written_is_reported(photographs: Path, tmp_path: Path, code: int) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(InputError, match=f"output: .*{os.strerror(code)}"):
        prepare_folder(str(photographs), str(tmp_path / "output"), SETTINGS, refuse)


def test_a_photograph_that_changes_between_the_passes_is_reported(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source", {"a": 10, "b": 10})

    def run_tasks(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
        if description == "Writing":
            file = source / "a" / "0003.jpg"
            file.write_bytes(file.read_bytes()[:-1] + b"x")
        run_serially(work, tasks, description, total)

    with pytest.raises(InputError, match=r"a/0003\.jpg: .*\bscanned\b"):
        prepare_folder(str(source), str(tmp_path / "output"), SETTINGS, run_tasks)
    assert not list(tmp_path.glob("output/*/train/*.tfrec"))


def test_bad_images_are_all_reported_or_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_class_folders(tmp_path / "source", {"a": 20, "b": 20})
    good = (source / "a" / "0000.jpg").read_bytes()
    bad = {"a/half.jpg": good[: len(good) // 2], "a/text.png": b"text", "b/empty.jpg": b""}
    for path, data in bad.items():
        (source / path).write_bytes(data)
    output = tmp_path / "output"
    with pytest.raises(InputError) as raised:
        prepare_folder(str(source), str(output), SETTINGS, run_serially)
    assert "3 of 43 files" in str(raised.value)
    assert all(f"\n  {path}: " in str(raised.value) for path in bad)
    assert [line.split(",")[0] for line in (output / "unreadable.csv").read_text().splitlines()[1:]] == sorted(bad)
    scanned: list[int] = []

    def count_scanned(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
        scanned.append(total if description == "Scanning" else 0)
        run_serially(work, tasks, description, total)

    with caplog.at_level("INFO"):
        prepare_folder(str(source), str(output), dataclasses.replace(SETTINGS, on_bad_image="skip"), count_scanned)
    assert sum(scanned) == 3  # the second call reuses the scan, except for files that may have been fixed since
    assert "3 of 43 files" in caplog.text
    assert not {row.path for row in read_manifest(output)} & bad.keys()
    assert len(read_manifest(output)) == 40
    assert [line.split(",")[0] for line in (output / "unreadable.csv").read_text().splitlines()[1:]] == sorted(bad)


def test_a_fixed_image_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    source, output = write_class_folders(tmp_path / "source", {"a": 20, "b": 20}), tmp_path / "output"
    good = (source / "a" / "0003.jpg").read_bytes()
    (source / "a" / "0003.jpg").write_bytes(good[:200] + bytes(len(good) - 200))
    skip = dataclasses.replace(SETTINGS, on_bad_image="skip")
    with pytest.raises(InputError, match="1 of 40 files"):
        prepare_folder(str(source), str(output), SETTINGS, run_serially)
    (output / "unreadable.csv").write_text("path,label,bytes,fault\na/0003.jpg,a,3,cut off\n")  # of a call killed later
    (source / "a" / "0003.jpg").write_bytes(good)
    for settings in (skip, skip):
        prepare_folder(str(source), str(output), settings, run_serially)
    assert len(read_manifest(output)) == 40
    assert not (output / "unreadable.csv").exists()


def test_a_class_with_only_bad_images_is_refused(tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "source", {"a": 20, "b": 1})
    next((source / "b").iterdir()).write_bytes(b"text")
    settings = dataclasses.replace(SETTINGS, on_bad_image="skip")
    with pytest.raises(InputError, match=r"none of b\b"):
        prepare_folder(str(source), str(tmp_path / "output"), settings, run_serially)


def test_near_duplicates_stay_together_and_contradictions_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_class_folders(tmp_path / "source", {"a": 30, "b": 30})
    for number in range(30):  # each image of a again, smaller and of lower quality
        (source / "a" / f"copy {number}.jpg").write_bytes(encode_image(draw_photograph(number, 96, 72), quality=40))
    shutil.copy(source / "a" / "0005.jpg", source / "b" / "same.jpg")
    with caplog.at_level("INFO"):
        prepare_folder(str(source), str(tmp_path / "output"), SETTINGS, run_serially)
    rows = {row.path: row for row in read_manifest(tmp_path / "output")}
    for number in range(30):
        one, other = rows[f"a/{number:04d}.jpg"], rows[f"a/copy {number}.jpg"]
        assert (one.group, one.split) == (other.group, other.split)
    assert {row.split for row in rows.values()} == set(SPLITS)
    assert rows["b/same.jpg"].split == rows["a/0005.jpg"].split == "train"
    assert "61 images, 30 groups" in caplog.text
    assert "into train: 1." in caplog.text
    assert "\n  a/0005.jpg (a) = b/same.jpg (b)" in caplog.text


def test_a_second_run_at_the_same_time_is_refused(photographs: Path, tmp_path: Path) -> None:
    def run_tasks(*_: Any) -> None:
        prepare_folder(str(photographs), str(tmp_path / "output"), SETTINGS, run_serially)

    with pytest.raises(InputError, match=r"output: .*\banother run\b"):
        prepare_folder(str(photographs), str(tmp_path / "output"), SETTINGS, run_tasks)
