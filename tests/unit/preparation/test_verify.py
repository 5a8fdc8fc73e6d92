"""Verification finds each kind of problem at its place and nothing else, and none in a clean data set."""

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
    """Return a copy of the tiny garden to damage: 16 shards per split, 13 records each in train."""
    return shutil.copytree(garden, tmp_path / "copy")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    # On several processes: tests/commands/test_prepare.py.
    monkeypatch.setattr(verifying, "map_on_processes", map)


def find_shard(root: Path, number: int = 3, size: int = 192, split: Split = "train") -> Path:
    return sorted((root / f"tfrecords-jpeg-{size}x{size}" / split).glob("*.tfrec"))[number]


def read_records(path: Path) -> list[Record]:
    reader = ShardReader([index_shard(path)])
    labelled = path.parent.name != "test"
    return [decode_example(reader[number], labelled=labelled, where="") for number in range(len(reader))]


def rewrite(path: Path, change: Change) -> None:
    """Write a shard again with other records, and the right count in its name."""
    changed = change(read_records(path))
    path.unlink()
    path = path.with_name(f"{path.stem.rpartition('-')[0]}-{len(changed)}.tfrec")
    write_shard(path, [entry if isinstance(entry, bytes) else encode_example(entry) for entry in changed])


def change_record(number: int, **changes: Any) -> Change:
    return lambda records: [*records[:number], replace(records[number], **changes), *records[number + 1 :]]


def flip(root: Path) -> None:
    path = find_shard(root)
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def cut(root: Path) -> None:
    path = find_shard(root)
    path.write_bytes(path.read_bytes()[:-10])


def make_unreadable(root: Path) -> None:
    path = find_shard(root)
    path.unlink()
    path.mkdir()


def repeat(root: Path) -> None:
    rewrite(find_shard(root), lambda records: [*records[:-1], records[0]])


def leak(root: Path) -> None:
    for size in (192, 224):
        rewrite(
            find_shard(root, 0, size, "val"),
            lambda records, size=size: [*records, read_records(find_shard(root, 3, size))[0]],
        )


# The damage done to the copy, and the findings: kind, record, whether the id is known, and a part of the message.
Case = tuple[Callable[[Path], Any], list[tuple[Kind, int | None, bool, str]]]
DAMAGES: dict[str, Case] = {
    "a flipped byte": (flip, [("record", 0, False, "CRC")]),
    "no example": (
        lambda root: rewrite(find_shard(root), lambda records: [b"\xff\xff", *records[1:]]),
        [("record", 0, False, "tf.train.Example")],
    ),
    "no class": (
        lambda root: rewrite(find_shard(root), change_record(2, label=None)),
        [("record", 2, False, "'class'")],
    ),
    "class out of range": (
        lambda root: rewrite(find_shard(root), change_record(2, label=104)),
        [("record", 2, True, "0 to 103, found 104")],
    ),
    "no JPEG": (
        lambda root: rewrite(find_shard(root), change_record(2, image=b"no JPEG")),
        [("record", 2, True, "JPEG")],
    ),
    "half a JPEG": (
        lambda root: rewrite(find_shard(root), change_record(2, image=read_records(find_shard(root))[2].image[:1500])),
        [("record", 2, True, "JPEG")],
    ),
    "another pixel size": (
        lambda root: rewrite(
            find_shard(root), change_record(2, image=read_records(find_shard(root, size=224))[2].image)
        ),
        [("record", 2, True, "found 224x224")],
    ),
    "a shard that is cut off": (cut, [("shard", None, False, "record 12 at byte")]),
    "a count that differs from the name": (
        lambda root: find_shard(root).rename(find_shard(root).with_name("03-192x192-15.tfrec")),
        [("shard", None, False, "found 13")],
    ),
    "a shard that cannot be read": (make_unreadable, [("shard", None, False, "expected a shard")]),
    "an id twice in a split": (
        repeat,
        [("duplicate", 12, True, "here and in"), ("resolution", None, True, "at [224], not at [192]")],
    ),
    "an id in two splits": (leak, [("leak", 7, True, "in train (")]),
    "an id at one resolution only": (
        lambda root: rewrite(find_shard(root), lambda records: [*records[1:]]),
        [("resolution", None, True, "at [224], not at [192]")],
    ),
    "another label at one resolution": (
        lambda root: rewrite(
            find_shard(root, size=224), change_record(2, label=read_records(find_shard(root))[2].label ^ 1)
        ),
        [("resolution", 2, True, "one label")],
    ),
    "no val at one resolution": (
        lambda root: shutil.rmtree(root / "tfrecords-jpeg-224x224" / "val"),
        [("split", None, False, "224x224/val: ")],
    ),
    "no val at all": (
        lambda root: [shutil.rmtree(root / f"tfrecords-jpeg-{size}x{size}" / "val") for size in (192, 224)],
        [("split", None, False, "192x192/val: "), ("split", None, False, "224x224/val: ")],
    ),
    "no shard at one resolution": (
        lambda root: find_shard(root).unlink(),
        [("shard", None, False, "192x192/train: expected 03-192x192-13.tfrec")],
    ),
    "no last shard at one resolution": (
        lambda root: find_shard(root, 15).unlink(),
        [("shard", None, False, "192x192/train: expected 15-192x192-13.tfrec")],
    ),
    "no shard at all": (
        lambda root: [find_shard(root, size=size).unlink() for size in (192, 224)],
        [
            ("shard", None, False, "192x192/train: expected 03-192x192-N.tfrec"),
            ("shard", None, False, "224x224/train: expected 03-224x224-N.tfrec"),
        ],
    ),
    "no test at all": (
        lambda root: [shutil.rmtree(root / f"tfrecords-jpeg-{size}x{size}" / "test") for size in (192, 224)],
        [],
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_each_problem_is_found_once_at_its_place(root: Path, name: str) -> None:
    damage, expected = DAMAGES[name]
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
def test_an_unreadable_split_is_reported_as_such(root: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_unreadable_root_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_the_numbers_of_shards_may_start_anywhere(root: Path, first: int) -> None:
    renumber(root, lambda number: f"{number + first:02d}")
    assert not verify(root, decode=False).findings
    find_shard(root).unlink()
    expected = f"{first + 3:02d}-192x192-13.tfrec"
    [finding] = verify(root, decode=False).findings
    assert (finding.kind, expected in finding.message) == ("shard", True)


def test_gaps_between_distant_shard_numbers_are_no_problem(root: Path) -> None:
    renumber(root, lambda number: f"{20240101 + 10_000 * number}")
    assert not verify(root, decode=False).findings
    find_shard(root).unlink()  # the other resolution still has it
    [finding] = verify(root, decode=False).findings
    assert (finding.kind, f"{20240101 + 30_000}-192x192-13.tfrec" in finding.message) == ("shard", True)


@pytest.fixture(scope="module")
def photographs_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of `prepare.py folder`: two shards in train, one each in val and test. Read only."""
    directory = tmp_path_factory.mktemp("set")
    source = write_class_folders(directory / "photographs", {"daisy": 60, "rose": 60}, 64, 48)
    prepare_folder(str(source), str(directory / "set"), SETTINGS, run_serially)
    return directory / "set"


def at_both_sizes(change: Callable[[Path, int], Any]) -> Callable[[Path], Any]:
    """Apply a change at both resolutions of `photographs_prepared`."""
    return lambda root: [change(root, size) for size in SETTINGS.sizes]


def move_to_val(root: Path, size: int) -> None:
    moved = read_records(find_shard(root, 0, size))[0]
    rewrite(find_shard(root, 0, size), lambda records: records[1:])
    rewrite(find_shard(root, 0, size, "val"), lambda records: [*records, moved])


def edit(name: str, old: str, new: str) -> Callable[[Path], Any]:
    return lambda root: (root / name).write_text((root / name).read_text().replace(old, new, 1))


AGAINST_MANIFEST: dict[str, Case] = {
    "the last shard of a split is missing": (
        at_both_sizes(lambda root, size: find_shard(root, 1, size).unlink()),
        [("shard", None, False, "48x48/train: expected 01-48x48-42.tfrec"), ("shard", None, False, "64x64/train: ")],
    ),
    "a record is missing": (
        at_both_sizes(lambda root, size: rewrite(find_shard(root, 0, size), lambda records: records[1:])),
        [("manifest", None, True, "in train, found it nowhere")],
    ),
    "a record is damaged": (
        lambda root: rewrite(find_shard(root, 0, 48), lambda records: [b"\xff\xff", *records[1:]]),
        [("record", 0, False, "tf.train.Example")],
    ),
    "a record is too many": (
        at_both_sizes(lambda root, size: rewrite(find_shard(root, 0, size), lambda r: [*r, replace(r[0], id="new")])),
        [("manifest", 42, True, "manifest.csv, found new")],
    ),
    "a record is in another split": (
        at_both_sizes(move_to_val),
        [("manifest", None, True, "in train, found it in val")],
    ),
    "a record has another label": (
        at_both_sizes(
            lambda root, size: rewrite(
                find_shard(root, 0, size), lambda r: change_record(0, label=1 - (r[0].label or 0))(r)
            )
        ),
        [("manifest", None, True, "in train with the class")],
    ),
    "a split is missing": (
        at_both_sizes(lambda root, size: shutil.rmtree(root / f"tfrecords-jpeg-{size}x{size}" / "test")),
        [("split", None, False, "48x48/test: "), ("split", None, False, "64x64/test: ")],
    ),
    "a resolution is missing": (
        lambda root: shutil.rmtree(root / "tfrecords-jpeg-64x64"),
        [("manifest", None, False, "found [48]")],
    ),
    "a class has another name": (
        edit("classes.txt", "rose", "tulip"),
        [("manifest", None, False, "'tulip', not 'rose'")],
    ),
    "a class is too many": (
        edit("classes.txt", "rose", "rose\ntulip"),
        [("manifest", None, False, "manifest.csv, found 3 classes")],
    ),
}


@pytest.mark.parametrize("name", AGAINST_MANIFEST)
def test_each_difference_from_the_manifest_is_found_once_at_its_place(
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
    settings = replace(SETTINGS, val=0.0, test=0.0)  # a missing val is no problem if none was requested
    prepare_folder(str(source), str(tmp_path / "set"), settings, run_serially)
    assert verify(tmp_path / "set", decode=True).findings == []


@pytest.mark.parametrize("damaged", ["manifest.csv", "prepare.json"])
def test_a_damaged_manifest_is_refused(photographs_prepared: Path, tmp_path: Path, damaged: str) -> None:
    root = shutil.copytree(photographs_prepared, tmp_path / "copy")
    (root / damaged).write_text("[1\n2,3,\n")
    with pytest.raises(InputError, match=f"{damaged}: expected "):
        verify(root, decode=True)


@pytest.mark.parametrize("name", ["manifest.csv", "prepare.json", "classes.txt"])
def test_an_unreadable_file_is_refused(photographs_prepared: Path, tmp_path: Path, name: str) -> None:
    root = shutil.copytree(photographs_prepared, tmp_path / "copy")
    (root / name).unlink()
    (root / name).mkdir()  # not even the superuser may read it
    with pytest.raises(InputError, match=f"{root / name}: .*Is a directory"):
        verify(root, decode=False)


def test_an_unfinished_preparation_is_refused(photographs_prepared: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photographs_prepared, tmp_path / "copy")
    (root / "manifest.csv").rename(root / "plan.csv")
    with pytest.raises(InputError, match=f"{root}: .*finished data set"):
        verify(root, decode=True)


def test_a_clean_data_set_has_no_findings_and_the_right_counts(garden: Path) -> None:
    verification = verify(garden, decode=True)
    assert verification.findings == []
    assert verification.class_count == 104
    counts = [(p.size, p.split, len(p.files), p.found, p.classes, p.bad) for p in verification.parts]
    one = [("train", 16, 208, 104, 0), ("val", 16, 104, 104, 0), ("test", 16, 72, 0, 0)]
    assert counts == [(size, *count) for size in (192, 224) for count in one]


def test_a_bad_record_is_counted_in_its_split_and_resolution(root: Path) -> None:
    flip(root)
    bad = {(part.size, part.split): part.bad for part in verify(root, decode=True).parts}
    assert bad == {(size, split): int((size, split) == (192, "train")) for size in (192, 224) for split in SPLITS}


@pytest.mark.parametrize(("name", "found"), [("half a JPEG", 0), ("another pixel size", 0), ("a flipped byte", 1)])
def test_without_decoding_only_bad_images_are_missed(root: Path, name: str, found: int) -> None:
    DAMAGES[name][0](root)
    assert len(verify(root, decode=False).findings) == found


def test_more_missing_ids_than_damage_explains_are_reported(root: Path) -> None:
    cut(root)  # loses one record, and another shard leaves out two
    rewrite(find_shard(root, 5), lambda records: [*records[2:]])
    kinds = [finding.kind for finding in verify(root, decode=True).findings]
    assert kinds == ["shard", "resolution", "resolution", "resolution"]


def make_part(size: int, ids: list[int], labels: list[int]) -> Part:
    count = len(ids)
    files = [Path(f"tfrecords-jpeg-{size}x{size}/train/00-{size}x{size}-{count}.tfrec")]
    columns = (np.zeros(count, np.int64), np.arange(count), np.array(ids), np.array(labels))
    return Part(size, "train", files, count, 0, *columns, findings=[])


def test_an_id_is_reported_once_with_all_resolutions() -> None:
    parts = [
        make_part(8, [0, 1, 2], [5, 5, 5]),
        make_part(16, [2, 0], [6, 5]),
        make_part(32, [0, 2, 3], [5, 7, NO_LABEL]),
    ]
    findings = find_problems(parts, ["a", "b", "c", "d"])
    found = [(finding.id, finding.message.rpartition("found ")[2]) for finding in findings]
    assert found == [
        ("b", "b at [8], not at [16, 32]."),
        ("d", "d at [32], not at [8, 16]."),
        ("c", "for c: 5 at 8, 6 at 16, 7 at 32."),
    ]


def test_a_directory_without_a_data_set_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=f"{path}: .*Kaggle's layout"):
            verify(path, decode=True)


def test_a_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"root=memory://bucket/set: .*local directory"):
        local_root("memory://bucket/set")
    assert local_root(f"file://{tmp_path}") == local_root(str(tmp_path)) == tmp_path


def test_a_report_that_lost_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check = atomic._check_size
    monkeypatch.setattr(atomic, "_check_size", lambda path, _: check(path, 3))
    with pytest.raises(InputError, match=r"report=.*/report\.json: .*\b3 bytes.*found \d+\."):
        write_report(tmp_path / "report.json", Verification(104, [], []))
