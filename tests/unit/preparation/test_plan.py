"""The plan assigns ids, splits and shards, and finds contradictions between photographs."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from flowers.errors import InputError
from flowers.preparation import plan as planning
from flowers.preparation.manifest import PlannedImage, UnreadableImage
from flowers.preparation.plan import (
    MIN_RECORDS,
    Settings,
    classes_without,
    deal,
    equal_files_of_several_classes,
    groups_of_several_classes,
    image_ids,
    make_plan,
    settings_differences,
    settings_json,
    source_differences,
)
from flowers.preparation.scan import Scan
from flowers.preparation.source import Photograph
from flowers.preparation.tables import read_table, write_table
from tests.helpers.photographs import SETTINGS


def make_photographs(count: int) -> list[Photograph]:
    return [Photograph(f"{'ab'[n % 2]}/{n:04d}.jpg", "ab"[n % 2], n) for n in range(count)]


def make_scans(images: list[Photograph]) -> dict[str, Scan]:
    """Return scans with distinct hashes, except that every tenth equals the last but one, of the same class."""
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(32).hex() for _ in images]
    for number in range(10, len(images), 10):
        hashes[number] = hashes[number - 2]
    return {
        image.path: Scan(image.path, image.bytes, f"{n:064x}", value, "")
        for n, (image, value) in enumerate(zip(images, hashes, strict=True))
    }


def test_every_image_is_planned_once_and_groups_stay_together() -> None:
    images = make_photographs(400)
    plan = make_plan(images, make_scans(images), SETTINGS)
    assert sorted((image.path, image.label, image.bytes) for image in plan) == sorted(
        (image.path, image.label, image.bytes) for image in images
    )
    assert len({image.id for image in plan}) == 400
    assert len({(image.group, image.split) for image in plan}) == len({image.group for image in plan}) == 400 - 39
    counts = Counter(image.split for image in plan)
    assert (counts["train"], counts["val"], counts["test"]) == (280, 60, 60)


def test_the_plan_depends_only_on_images_and_seed() -> None:
    images = make_photographs(200)
    plan = make_plan(images, make_scans(images), SETTINGS)
    assert plan == make_plan(images, make_scans(images), SETTINGS)
    assert plan != make_plan(images, make_scans(images), dataclasses.replace(SETTINGS, seed=1))
    assert plan == make_plan(images, make_scans(images), dataclasses.replace(SETTINGS, sizes=(32,)))


def test_records_are_shuffled_over_the_shards() -> None:
    images = sorted(make_photographs(640), key=lambda image: image.path)
    plan = make_plan(images, make_scans(images), dataclasses.replace(SETTINGS, val=0.0, test=0.0))
    by_shard = [{image.label for image in plan if image.shard == shard} for shard in range(16)]
    assert by_shard == [{"a", "b"}] * 16


@given(count=st.integers(0, 3000), shards=st.integers(1, 40), seed=st.integers(0, 5))
def test_shards_are_dealt_evenly_and_none_is_small(count: int, shards: int, seed: int) -> None:
    dealt = deal(np.arange(count) + 7, shards, np.random.default_rng(seed))
    sizes = [len(part) for part in dealt]
    assert sorted(np.concatenate([*dealt, np.array([], int)])) == list(range(7, 7 + count))
    assert len(dealt) <= shards
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert min(sizes, default=count) >= min(count, MIN_RECORDS)
    assert len(dealt) == shards or count < (len(dealt) + 1) * MIN_RECORDS


def test_an_id_depends_only_on_its_path() -> None:
    paths = [f"rose/{number}.jpg" for number in range(5000)]
    ids = image_ids(paths)
    assert len(set(ids)) == 5000
    assert all(len(identity) == 9 and int(identity, 16) >= 0 for identity in ids)
    assert image_ids(paths[::-1][:100]) == ids[::-1][:100]
    # From sha256sum. It must never change, as submissions refer to it.
    assert image_ids(["rose/1.jpg"]) == ["6f9a6ce5b"]


def test_all_ids_get_longer_if_two_would_be_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"rose/{number}.jpg" for number in range(300)]
    full = image_ids(paths)
    monkeypatch.setattr(planning, "ID_DIGITS", 2)
    short = image_ids(paths)
    digits = len(short[0])
    assert 2 < digits < 9
    assert short == [identity[:digits] for identity in full]
    assert len(set(short)) == 300 > len({identity[: digits - 1] for identity in full})


@pytest.mark.parametrize(("val", "test", "name"), [(0.01, 0.15, "val"), (0.15, 0.01, "test")])
def test_a_split_that_would_be_empty_is_refused(val: float, test: float, name: str) -> None:
    images = make_photographs(20)
    with pytest.raises(InputError, match=rf"^{name}=0\.01: .*found 20"):
        make_plan(images, make_scans(images), dataclasses.replace(SETTINGS, val=val, test=test))


def test_val_and_test_must_leave_images_for_train() -> None:
    config = {**dataclasses.asdict(SETTINGS), "sizes": [64, 48, 64]}
    assert Settings.from_config(config) == SETTINGS  # sizes are sorted, each once
    with pytest.raises(InputError, match=r"val=0\.5 test=0\.5: "):
        Settings.from_config({**config, "val": 0.5, "test": 0.5})


def make_image(path: str, label: str, sha256: str = "", group: int = 0, split: str = "train") -> PlannedImage:
    return PlannedImage("", path, label, split, group, 0, 1, sha256, "")  # type: ignore[arg-type]


def test_contradictory_labels_are_found() -> None:
    plan = [
        make_image("2", "rose", "x", 0),
        make_image("1", "daisy", "x", 0),
        make_image("3", "rose", "y", 1, "val"),
        make_image("4", "rose", "y", 1, "val"),
        make_image("5", "iris", "z", 2),
    ]
    assert equal_files_of_several_classes(plan) == ["1 (daisy) = 2 (rose)"]
    assert groups_of_several_classes(plan) == 1
    assert classes_without(plan, "val") == ["daisy", "iris"]


def assert_match(lines: list[str], patterns: list[str]) -> None:
    """Assert that each line starts with a match of its pattern."""
    assert len(lines) == len(patterns)
    assert all(re.match(pattern, line) for pattern, line in zip(patterns, lines, strict=True)), lines


def test_differences_are_described() -> None:
    there = dataclasses.replace(SETTINGS, seed=1, sizes=(32,))
    found = settings_differences(dataclasses.asdict(there) | {"sizes": [32], "old": 3}, SETTINGS)
    assert_match(found, [r"sizes: \[32\] .*\[48, 64\]", r"seed: 1 .*\b42\b", r"old: 3 .*\bNone\b"])
    assert '"seed": 42' in settings_json(SETTINGS)
    planned = [
        make_image("a", "rose"),
        make_image("b", "rose"),
        UnreadableImage("c", "rose", 1, "truncated"),
        make_image("d", "rose"),
    ]
    now = [Photograph("a", "rose", 1), Photograph("b", "daisy", 1), Photograph("d", "rose", 2), Photograph("e", "x", 1)]
    found = source_differences(planned, now)
    assert_match(found, [r"e: .*\bthen\b", r"c: .*\bnow\b", r"b: rose, 1 .*daisy, 1 ", r"d: rose, 1 .*rose, 2 "])


@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1), max_size=8))
def test_tables_preserve_any_text(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = UPath(tmp_path_factory.mktemp("tables") / "table.csv")
    rows = [UnreadableImage(text, text[::-1], number, "") for number, text in enumerate(texts)]
    write_table(path, UnreadableImage, rows)
    assert read_table(path, UnreadableImage) == rows


def test_the_manifest_is_a_plain_csv(prepared: Path) -> None:
    with (prepared / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:5] == ["id", "path", "label", "split", "group"]
    assert {row["label"] for row in rows} == {"rose", "wild daisy", "Ähre"}
