"""Checking a data set: each kind of fault is found, where it is, and nothing else; a clean one has none."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowers.data.layout import SPLITS, Split
from flowers.data.tfrecord.example import Record, decode_example, encode_example
from flowers.data.tfrecord.framing import index_shard, write_shard
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import InputError
from flowers.preparation import verify as verifying
from flowers.preparation.findings import NO_LABEL, Kind, Part, find_problems
from flowers.preparation.folder import prepare_folder
from flowers.preparation.report import write_report
from flowers.preparation.verify import Verification, local_root, verify
from flowers.system import atomic
from tests.helpers.photographs import SETTINGS, run_serially, write_class_folders

Change = Callable[[list[Record]], list[Record | bytes]]


@pytest.fixture
def root(garden: Path, tmp_path: Path) -> Path:
    """A copy of the tiny garden, to be damaged: 16 shards a split, 13 records each in train."""
    return shutil.copytree(garden, tmp_path / "copy")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        verifying, "map_on_processes", map
    )  # tests/commands/test_prepare.py verifies on several processes


def shard(root: Path, number: int = 3, size: int = 192, split: Split = "train") -> Path:
    return sorted((root / f"tfrecords-jpeg-{size}x{size}" / split).glob("*.tfrec"))[number]


def records_of(path: Path) -> list[Record]:
    reader = ShardReader([index_shard(path)])
    labelled = path.parent.name != "test"
    return [decode_example(reader[number], labelled=labelled, where="") for number in range(len(reader))]


def rewrite(path: Path, change: Change) -> None:
    """Write a shard again with other records, and the right count in its name."""
    changed = change(records_of(path))
    path.unlink()
    path = path.with_name(f"{path.stem.rpartition('-')[0]}-{len(changed)}.tfrec")
    write_shard(path, [entry if isinstance(entry, bytes) else encode_example(entry) for entry in changed])


def with_record(number: int, **changes: Any) -> Change:
    return lambda records: [*records[:number], replace(records[number], **changes), *records[number + 1 :]]


def flip(root: Path) -> None:
    path = shard(root)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def cut(root: Path) -> None:
    path = shard(root)
    path.write_bytes(path.read_bytes()[:-10])


def make_unreadable(root: Path) -> None:
    path = shard(root)
    path.unlink()
    path.mkdir()


def repeat(root: Path) -> None:
    rewrite(shard(root), lambda records: [*records[:-1], records[0]])


def leak(root: Path) -> None:
    for size in (192, 224):
        rewrite(shard(root, 0, size, "val"), lambda records, size=size: [*records, records_of(shard(root, 3, size))[0]])


# What is done to the copy, and the findings: kind, record, whether the id is known, and what the message says.
Fault = tuple[Callable[[Path], Any], list[tuple[Kind, int | None, bool, str]]]
FAULTS: dict[str, Fault] = {
    "a flipped byte": (flip, [("record", 0, False, "the payload's CRC is wrong")]),
    "no example": (
        lambda root: rewrite(shard(root), lambda records: [b"\xff\xff", *records[1:]]),
        [("record", 0, False, "expected a tf.train.Example, found 2 bytes")],
    ),
    "no class": (
        lambda root: rewrite(shard(root), with_record(2, label=None)),
        [("record", 2, False, "expected a feature 'class'")],
    ),
    "class out of range": (
        lambda root: rewrite(shard(root), with_record(2, label=104)),
        [("record", 2, True, "expected a class from 0 to 103, found 104")],
    ),
    "no JPEG": (
        lambda root: rewrite(shard(root), with_record(2, image=b"no JPEG")),
        [("record", 2, True, "expected a JPEG as the image")],
    ),
    "half a JPEG": (
        lambda root: rewrite(shard(root), with_record(2, image=records_of(shard(root))[2].image[:1500])),
        [("record", 2, True, "expected a JPEG as the image")],
    ),
    "another pixel size": (
        lambda root: rewrite(shard(root), with_record(2, image=records_of(shard(root, size=224))[2].image)),
        [("record", 2, True, "expected an image of 192x192 pixels as the directory says, found 224x224")],
    ),
    "a shard that is cut off": (cut, [("shard", None, False, "record 12 at byte")]),
    "a count that the name does not say": (
        lambda root: shard(root).rename(shard(root).with_name("03-192x192-15.tfrec")),
        [("shard", None, False, "expected 15 records as the name says, found 13")],
    ),
    "a shard that cannot be read": (make_unreadable, [("shard", None, False, "expected a shard, found what cannot")]),
    "an id twice in a split": (
        repeat,
        [("duplicate", 12, True, "here and in"), ("resolution", None, True, "at [224], not at [192]")],
    ),
    "an id in two splits": (leak, [("leak", 7, True, "in train (")]),
    "an id at one resolution only": (
        lambda root: rewrite(shard(root), lambda records: [*records[1:]]),
        [("resolution", None, True, "at [224], not at [192]")],
    ),
    "another label at one resolution": (
        lambda root: rewrite(shard(root, size=224), with_record(2, label=records_of(shard(root))[2].label ^ 1)),
        [("resolution", 2, True, "expected one label at every resolution")],
    ),
    "no val at one resolution": (
        lambda root: shutil.rmtree(root / "tfrecords-jpeg-224x224" / "val"),
        [("split", None, False, "224x224/val: expected shards named like")],
    ),
    "no val at all": (
        lambda root: [shutil.rmtree(root / f"tfrecords-jpeg-{size}x{size}" / "val") for size in (192, 224)],
        [("split", None, False, "192x192/val: expected"), ("split", None, False, "224x224/val: expected")],
    ),
    "no shard at one resolution": (
        lambda root: shard(root).unlink(),
        [("shard", None, False, "192x192/train: expected 03-192x192-13.tfrec, found none")],
    ),
    "no last shard at one resolution": (
        lambda root: shard(root, 15).unlink(),
        [("shard", None, False, "192x192/train: expected 15-192x192-13.tfrec, found none")],
    ),
    "no shard at all": (
        lambda root: [shard(root, size=size).unlink() for size in (192, 224)],
        [
            ("shard", None, False, "192x192/train: expected 03-192x192-N.tfrec, found none"),
            ("shard", None, False, "224x224/train: expected 03-224x224-N.tfrec, found none"),
        ],
    ),
    "no test at all": (
        lambda root: [shutil.rmtree(root / f"tfrecords-jpeg-{size}x{size}" / "test") for size in (192, 224)],
        [],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_once_and_in_its_place(root: Path, name: str) -> None:
    damage, expected = FAULTS[name]
    damage(root)
    findings = verify(root, decode=True).findings
    found = [(finding.kind, finding.record, finding.id is not None) for finding in findings]
    assert found == [(kind, record, known) for kind, record, known, _ in expected], findings
    for finding, (_, record, known, message) in zip(findings, expected, strict=True):
        assert message in finding.message
        assert finding.message.startswith(finding.file if record is None else f"{finding.file}: record {record}: ")
        assert not known or str(finding.id) in finding.message
        assert Path(finding.file).is_relative_to(root)


@pytest.mark.parametrize("place", ["192x192/val", "192x192/test"])
def test_a_split_that_cannot_be_read_is_reported_as_that(
    root: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.iterdir
    refused = root / f"tfrecords-jpeg-{place}"

    def list_others(path: Path) -> Any:
        if path == refused:
            raise PermissionError(errno.EACCES, "Permission denied")  # the superuser may read everything
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", list_others)
    [finding] = verify(root, decode=False).findings
    assert (finding.kind, finding.file) == ("split", str(refused))
    assert finding.message.startswith(f"{refused}: ")
    assert "Permission denied" in finding.message


def test_a_root_that_cannot_be_read_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(root))

    for method in ("stat", "iterdir"):
        monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(InputError, match=f"{root}: .*Permission denied"):
        verify(root, decode=False)


def renumber(root: Path, new: Callable[[int], str]) -> None:
    for path in sorted(root.rglob("*.tfrec"), reverse=True):
        number, rest = path.name.split("-", 1)
        path.rename(path.with_name(f"{new(int(number))}-{rest}"))


@pytest.mark.parametrize("first", [1, 100])
def test_shards_may_be_numbered_from_any_number(root: Path, first: int) -> None:
    renumber(root, lambda number: f"{number + first:02d}")
    assert not verify(root, decode=False).findings
    shard(root).unlink()
    expected = f"{first + 3:02d}-192x192-13.tfrec"
    [finding] = verify(root, decode=False).findings
    assert (finding.kind, expected in finding.message) == ("shard", True)


def test_no_gaps_are_looked_for_between_numbers_far_apart(root: Path) -> None:
    renumber(root, lambda number: f"{20240101 + 10_000 * number}")
    assert not verify(root, decode=False).findings
    shard(root).unlink()  # which the other resolution still has
    [finding] = verify(root, decode=False).findings
    assert (finding.kind, f"{20240101 + 30_000}-192x192-13.tfrec" in finding.message) == ("shard", True)


@pytest.fixture(scope="module")
def photographs_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of `prepare.py folder`: two shards in train, one in val and test each. Not to be changed."""
    directory = tmp_path_factory.mktemp("set")
    source = write_class_folders(directory / "photographs", {"daisy": 60, "rose": 60}, 64, 48)
    prepare_folder(str(source), str(directory / "set"), SETTINGS, run_serially)
    return directory / "set"


def both(change: Callable[[Path, int], Any]) -> Callable[[Path], Any]:
    """The same at both resolutions of `photographs_prepared`."""
    return lambda root: [change(root, size) for size in SETTINGS.sizes]


def move_to_val(root: Path, size: int) -> None:
    moved = records_of(shard(root, 0, size))[0]
    rewrite(shard(root, 0, size), lambda records: records[1:])
    rewrite(shard(root, 0, size, "val"), lambda records: [*records, moved])


def edit(name: str, old: str, new: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new, 1))


AGAINST_MANIFEST: dict[str, Fault] = {
    "the last shard of a split is missing": (
        both(lambda root, size: shard(root, 1, size).unlink()),
        [("shard", None, False, "48x48/train: expected 01-48x48-42.tfrec"), ("shard", None, False, "64x64/train: exp")],
    ),
    "a record is missing": (
        both(lambda root, size: rewrite(shard(root, 0, size), lambda records: records[1:])),
        [("manifest", None, True, "in train, found it nowhere")],
    ),
    "a record is damaged": (
        lambda root: rewrite(shard(root, 0, 48), lambda records: [b"\xff\xff", *records[1:]]),
        [("record", 0, False, "expected a tf.train.Example")],
    ),
    "a record is too many": (
        both(lambda root, size: rewrite(shard(root, 0, size), lambda r: [*r, replace(r[0], id="new")])),
        [("manifest", 42, True, "expected an id of manifest.csv, found new")],
    ),
    "a record is in another split": (both(move_to_val), [("manifest", None, True, "in train, found it in val")]),
    "a record has another label": (
        both(
            lambda root, size: rewrite(shard(root, 0, size), lambda r: with_record(0, label=1 - (r[0].label or 0))(r))
        ),
        [("manifest", None, True, "in train with the class")],
    ),
    "a split is missing": (
        both(lambda root, size: shutil.rmtree(root / f"tfrecords-jpeg-{size}x{size}" / "test")),
        [("split", None, False, "48x48/test: expected shards"), ("split", None, False, "64x64/test: expected shards")],
    ),
    "a resolution is missing": (
        lambda root: shutil.rmtree(root / "tfrecords-jpeg-64x64"),
        [
            (
                "manifest",
                None,
                False,
                "prepare.json: expected resolutions of [48, 64] pixels as in it, found [48]",
            )
        ],
    ),
    "a class has another name": (
        edit("classes.txt", "rose", "tulip"),
        [
            (
                "manifest",
                None,
                False,
                "manifest.csv, found 2 classes, of which label 1 is 'tulip', not 'rose'",
            )
        ],
    ),
    "a class is too many": (
        edit("classes.txt", "rose", "rose\ntulip"),
        [("manifest", None, False, "classes.txt: expected the 2 classes of manifest.csv, found 3 classes")],
    ),
}


@pytest.mark.parametrize("name", AGAINST_MANIFEST)
def test_what_differs_from_the_manifest_is_found_once_and_in_its_place(
    photographs_prepared: Path, tmp_path: Path, name: str
) -> None:
    root = shutil.copytree(photographs_prepared, tmp_path / "copy")
    damage, expected = AGAINST_MANIFEST[name]
    damage(root)
    findings = verify(root, decode=True).findings
    found = [(finding.kind, finding.record, finding.id is not None) for finding in findings]
    assert found == [(kind, record, known) for kind, record, known, _ in expected], findings
    for finding, (_, _, known, message) in zip(findings, expected, strict=True):
        assert message in finding.message
        assert finding.message.startswith(finding.file)
        assert not known or str(finding.id) in finding.message


def test_a_prepared_set_agrees_with_its_manifest(photographs_prepared: Path, tmp_path: Path) -> None:
    assert verify(photographs_prepared, decode=True).findings == []
    source = write_class_folders(tmp_path / "photographs", {"daisy": 20, "rose": 20}, 64, 48)
    settings = replace(SETTINGS, val=0.0, test=0.0)  # no val is no fault where none was asked for
    prepare_folder(str(source), str(tmp_path / "set"), settings, run_serially)
    assert verify(tmp_path / "set", decode=True).findings == []


@pytest.mark.parametrize("damaged", ["manifest.csv", "prepare.json"])
def test_a_damaged_manifest_gets_a_message(photographs_prepared: Path, tmp_path: Path, damaged: str) -> None:
    root = shutil.copytree(photographs_prepared, tmp_path / "copy")
    (root / damaged).write_text("[1\n2,3,\n")
    with pytest.raises(InputError, match=f"{damaged}: expected "):
        verify(root, decode=True)


@pytest.mark.parametrize("name", ["manifest.csv", "prepare.json", "classes.txt"])
def test_a_file_that_cannot_be_read_is_named(photographs_prepared: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(photographs_prepared, tmp_path / "copy")
    (root / name).unlink()
    (root / name).mkdir()  # not even the superuser may read it
    with pytest.raises(InputError, match=f"{root / name}: .*Is a directory"):
        verify(root, decode=False)


def test_an_unfinished_preparation_is_refused(photographs_prepared: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photographs_prepared, tmp_path / "copy")
    (root / "manifest.csv").rename(root / "plan.csv")
    with pytest.raises(InputError, match=f"{root}: expected a finished data set"):
        verify(root, decode=True)


def test_a_clean_data_set_has_no_findings_and_its_own_figures(garden: Path) -> None:
    verification = verify(garden, decode=True)
    assert verification.findings == []
    assert verification.class_count == 104
    figures = [(p.size, p.split, len(p.files), p.found, p.classes, p.bad) for p in verification.parts]
    one = [("train", 16, 208, 104, 0), ("val", 16, 104, 104, 0), ("test", 16, 72, 0, 0)]
    assert figures == [(size, *figure) for size in (192, 224) for figure in one]


def test_a_bad_record_is_counted_where_it_is(root: Path) -> None:
    flip(root)
    bad = {(part.size, part.split): part.bad for part in verify(root, decode=True).parts}
    assert bad == {(size, split): int((size, split) == (192, "train")) for size in (192, 224) for split in SPLITS}


@pytest.mark.parametrize(("name", "found"), [("half a JPEG", 0), ("another pixel size", 0), ("a flipped byte", 1)])
def test_without_decoding_only_images_go_unseen(root: Path, name: str, found: int) -> None:
    FAULTS[name][0](root)
    assert len(verify(root, decode=False).findings) == found


def test_more_missing_ids_than_damage_explains_are_told(root: Path) -> None:
    cut(root)  # one record lost, and two of another shard left out
    rewrite(shard(root, 5), lambda records: [*records[2:]])
    kinds = [finding.kind for finding in verify(root, decode=True).findings]
    assert kinds == ["shard", "resolution", "resolution", "resolution"]


def part(size: int, ids: list[int], labels: list[int]) -> Part:
    count = len(ids)
    files = [Path(f"tfrecords-jpeg-{size}x{size}/train/00-{size}x{size}-{count}.tfrec")]
    columns = (np.zeros(count, np.int64), np.arange(count), np.array(ids), np.array(labels))
    return Part(size, "train", files, count, 0, *columns, findings=[])


def test_an_id_is_told_once_with_all_resolutions() -> None:
    parts = [part(8, [0, 1, 2], [5, 5, 5]), part(16, [2, 0], [6, 5]), part(32, [0, 2, 3], [5, 7, NO_LABEL])]
    findings = find_problems(parts, ["a", "b", "c", "d"])
    told = [(finding.id, finding.message.partition("expected ")[2]) for finding in findings]
    assert told == [
        ("b", "the same ids at every resolution, found b at [8], not at [16, 32]."),
        ("d", "the same ids at every resolution, found d at [32], not at [8, 16]."),
        ("c", "one label at every resolution, found for c: 5 at 8, 6 at 16, 7 at 32."),
    ]


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=f"{path}: expected a data set in Kaggle's layout"):
            verify(path, decode=True)


def test_a_url_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="root=memory://bucket/set: expected a local directory, found a URL"):
        local_root("memory://bucket/set")
    assert local_root(f"file://{tmp_path}") == local_root(str(tmp_path)) == tmp_path


def test_a_report_that_lost_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = atomic._check_size
    monkeypatch.setattr(atomic, "_check_size", lambda path, _: check(path, 3))
    with pytest.raises(InputError, match=r"report=.*/report\.json: .*expected 3 bytes as written, found \d+\."):
        write_report(tmp_path / "report.json", Verification(104, [], []))
