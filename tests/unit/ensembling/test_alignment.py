"""The rows of members are aligned by id, as dictionaries would align them, and invalid rows are refused."""

from __future__ import annotations

import re
import resource
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from flowers.ensembling.alignment import AlignedPredictions, align_test, align_validation, check_same_classes
from flowers.ensembling.members import Member, find_members
from flowers.errors import InputError
from flowers.interfaces import NO_LABEL
from tests.helpers.members import CLASSES, Rows, make_rows, write_foreign, write_run

VAL = [make_rows(12, seed) for seed in range(3)]
TEST = [make_rows(8, seed, first=100) for seed in range(3)]


def write_named_run(root: Path, name: str, val: Rows, test: Rows | None = None, **provenance: Any) -> str:
    return write_run(root / name, val, test, **provenance)


def make_members(root: Path, vals: list[Rows], tests: list[Rows] | None = None) -> list[Member]:
    """Return members `a`, `b`, ... with these validation and test rows."""
    tested: list[Rows | None] = [*(tests or [None] * len(vals))]
    named = zip("abcdef", vals, tested, strict=False)
    return find_members([write_named_run(root, name, val, test) for name, val, test in named])


def index_by_id(rows: Rows) -> dict[str, np.ndarray]:
    """Return the probabilities of each id, normalised in double precision."""
    wide = rows.probabilities.astype(np.float64)
    return dict(zip(rows.ids, wide / wide.sum(1, keepdims=True), strict=True))


def assert_aligned(aligned: AlignedPredictions, ids: list[str], answers: list[dict[str, np.ndarray]]) -> None:
    """Assert that the rows are those of `ids`, with the probabilities of each member's dictionary."""
    assert aligned.ids.to_pylist() == ids
    expected = np.array([[answer.get(identity, np.zeros(3)) for identity in ids] for answer in answers])
    there = np.array([[identity in answer for identity in ids] for answer in answers])
    np.testing.assert_array_equal(aligned.present, there)
    np.testing.assert_allclose(aligned.probabilities, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(aligned.probabilities.sum(-1, dtype=np.float64), there, rtol=0, atol=3e-7)


def error_on_validation(members: list[Member], scratch: Path, *, allow_missing: bool = False) -> str:
    """Return the message with which the validation rows are refused."""
    with pytest.raises(InputError) as caught:
        align_validation(members, scratch, allow_missing=allow_missing)
    return str(caught.value)


def error_on_test(members: list[Member], scratch: Path, *, allow_missing: bool = False) -> str:
    """Return the message with which the test rows are refused."""
    with pytest.raises(InputError) as caught:
        align_test(members, scratch, allow_missing=allow_missing)
    return str(caught.value)


@pytest.mark.parametrize("allow_missing", [False, True])
def test_rows_in_any_order_are_aligned_by_id(tmp_path: Path, allow_missing: bool) -> None:
    members = make_members(
        tmp_path, [rows.shuffle(seed) for seed, rows in enumerate(VAL)], [rows.shuffle(9) for rows in TEST]
    )
    aligned = align_validation(members, tmp_path, allow_missing=allow_missing)
    first = VAL[0].shuffle(0)
    assert_aligned(aligned, first.ids, [index_by_id(rows) for rows in VAL])
    assert aligned.labels.tolist() == first.labels
    aligned = align_test(members, tmp_path, allow_missing=allow_missing)
    assert_aligned(aligned, TEST[0].shuffle(9).ids, [index_by_id(rows) for rows in TEST])
    assert aligned.labels.tolist() == [NO_LABEL] * 8


def test_many_rows_are_aligned_in_batches(tmp_path: Path) -> None:
    names = [*CLASSES, "tulip", "thistle"]
    rows = [make_rows(20_000, seed, classes=5).shuffle(seed) for seed in range(2)]
    members = find_members([write_run(tmp_path / f"{i}", own, own, class_names=names) for i, own in enumerate(rows)])
    aligned = align_validation(members, tmp_path, allow_missing=False)
    assert_aligned(aligned, rows[0].ids, [index_by_id(own) for own in rows])
    assert aligned.labels.tolist() == rows[0].labels
    assert_aligned(align_test(members, tmp_path, allow_missing=False), rows[0].ids, [index_by_id(own) for own in rows])


def test_probabilities_are_normalised(tmp_path: Path) -> None:
    coarse = [Rows(rows.ids, rows.labels, rows.probabilities * np.float32(1.0009)) for rows in VAL[:2]]
    aligned = align_validation(make_members(tmp_path, coarse), tmp_path, allow_missing=False)
    assert_aligned(aligned, VAL[0].ids, [index_by_id(rows) for rows in VAL[:2]])


def test_a_file_of_another_program_is_aligned(tmp_path: Path) -> None:
    write_foreign(tmp_path / "0_val.parquet", VAL[0])
    numbered = {"id": pa.array(VAL[0].ids).dictionary_encode(), "label": pa.array(VAL[0].labels, pa.int8())}
    write_foreign(tmp_path / "1_val.parquet", VAL[1], numbered)
    aligned = align_validation(find_members([str(tmp_path / "*_val.parquet")]), tmp_path, allow_missing=False)
    assert_aligned(aligned, VAL[0].ids, [index_by_id(rows) for rows in VAL[:2]])
    assert aligned.labels.tolist() == VAL[0].labels


def write_fold_runs(root: Path, tests: list[Rows] | None = None, **provenance: Any) -> list[str]:
    """Write three runs on folds of `VAL[1]`, each with all test rows."""
    return [
        write_named_run(root, f"fold{fold}", VAL[1].take(range(fold, 12, 3)), test, folds=3, fold=fold, **provenance)
        for fold, test in enumerate(tests or TEST)
    ]


def test_folds_are_concatenated_on_validation_and_averaged_on_test(tmp_path: Path) -> None:
    folds = write_fold_runs(tmp_path, [TEST[0], TEST[1].shuffle(1), TEST[2].shuffle(2)])
    members = find_members([*folds, write_named_run(tmp_path, "single", VAL[0].shuffle(3), TEST[0].shuffle(4))])
    order = [row for fold in range(3) for row in range(fold, 12, 3)]
    aligned = align_validation(members, tmp_path, allow_missing=False)
    assert_aligned(aligned, [VAL[1].ids[row] for row in order], [index_by_id(VAL[1]), index_by_id(VAL[0])])
    assert aligned.labels.tolist() == [VAL[1].labels[row] for row in order]
    mean = {identity: np.mean([index_by_id(rows)[identity] for rows in TEST], axis=0) for identity in TEST[0].ids}
    assert_aligned(align_test(members, tmp_path, allow_missing=False), TEST[0].ids, [mean, index_by_id(TEST[0])])


def test_missing_validation_rows_are_left_out_if_allowed(tmp_path: Path) -> None:
    vals = [VAL[0].take(range(9)), VAL[1].take(range(2, 12)).shuffle(0), VAL[2].take([11, 5, 8, 3])]
    aligned = align_validation(make_members(tmp_path, vals), tmp_path, allow_missing=True)
    assert_aligned(aligned, [VAL[0].ids[row] for row in (3, 5, 8)], [index_by_id(rows) for rows in vals])
    assert aligned.labels.tolist() == [VAL[0].labels[row] for row in (3, 5, 8)]


def test_members_without_a_common_validation_row_are_refused(tmp_path: Path) -> None:
    members = make_members(tmp_path, [VAL[0].take(range(6)), VAL[1].take(range(6, 12))])
    message = error_on_validation(members, tmp_path, allow_missing=True)
    assert message.startswith("runs: ")
    assert "validation images" in message


@pytest.mark.parametrize("allow_missing", [False, True])
def test_files_without_rows_are_refused(tmp_path: Path, allow_missing: bool) -> None:
    members = make_members(tmp_path, [VAL[0].take([])] * 2, [TEST[0].take([])] * 2)
    assert "validation images" in error_on_validation(members, tmp_path, allow_missing=allow_missing)
    assert "test images" in error_on_test(members, tmp_path, allow_missing=allow_missing)


def test_a_test_row_that_a_member_lacks_is_zero_and_marked_if_allowed(tmp_path: Path) -> None:
    tests = [TEST[0].take([4, 1, 2]), TEST[1].take([0, 1, 2, 4]), TEST[2].take([5, 4, 2, 1])]
    members = make_members(tmp_path, VAL, tests)
    answers = [index_by_id(rows) for rows in tests]
    ids = [TEST[0].ids[row] for row in (4, 1, 2, 0, 5)]
    assert_aligned(align_test(members, tmp_path, allow_missing=True), ids, answers)


def test_a_test_row_that_some_folds_lack_is_the_mean_of_the_other_folds(tmp_path: Path) -> None:
    folds = write_fold_runs(tmp_path, [TEST[0], TEST[1].take(range(7)), TEST[2].take(range(6))])
    members = find_members([*folds, write_named_run(tmp_path, "single", VAL[0], TEST[0])])
    aligned = align_test(members, tmp_path, allow_missing=True)
    own = [index_by_id(rows) for rows in TEST]
    mean = {i: np.mean([each[i] for each in own[: 3 if at < 6 else 9 - at - 1]], 0) for at, i in enumerate(own[0])}
    assert_aligned(aligned, TEST[0].ids, [mean, own[0]])


def test_ids_that_differ_are_refused_with_examples(tmp_path: Path) -> None:
    other = VAL[1].take(range(5, 12))
    unexpected = Rows([*other.ids[:-1], "stranger"], other.labels, other.probabilities)
    members = make_members(tmp_path, [VAL[0], unexpected], [TEST[0].take([0]), TEST[1].take([0, 3])])
    message = error_on_validation(members, tmp_path)
    assert re.match(
        rf"{tmp_path / 'b'}: .*\b12 validation ids of {tmp_path / 'a'}, found "
        r"6 missing \(000000000, 000000001, 000000002, \.\.\.\) and 1 .*\(stranger\)\..*allow_missing=true",
        message,
    )
    message = error_on_test(members, tmp_path)
    first, second = (f"{tmp_path / name} (predictions/test.parquet)" for name in "ab")
    assert message.startswith(f"{first}: ")
    assert re.search(rf"\b2 test ids of {re.escape(second)}, found 1 missing \(000000067\)\.", message)


def test_a_fold_that_lacks_test_ids_is_refused(tmp_path: Path) -> None:
    members = find_members(write_fold_runs(tmp_path, [TEST[0], TEST[1].take(range(6)), TEST[2]]))
    assert re.search(r"\(fold1/predictions/test\.parquet\): .*\b8 test ids", error_on_test(members, tmp_path))


@pytest.mark.parametrize("allow_missing", [False, True])
def test_a_duplicate_id_is_refused(tmp_path: Path, allow_missing: bool) -> None:
    rows = VAL[0].take([*range(12), 3, 4, 3])
    for name in ("val", "test"):
        write_foreign(tmp_path / f"{name}.parquet", rows)
    members = find_members([str(tmp_path / "val.parquet")])
    name, found = re.escape(members[0].name), r"found 2 .*: 000000003, 000000004\."
    message = error_on_validation(members, tmp_path, allow_missing=allow_missing)
    assert re.match(rf"{name}: .*\bval\.parquet, {found}", message)
    message = error_on_test(members, tmp_path, allow_missing=allow_missing)
    assert re.match(rf"{name}: .*\btest\.parquet, {found}", message)


def test_an_id_in_two_folds_is_refused(tmp_path: Path) -> None:
    folds = [write_named_run(tmp_path, f"{fold}", VAL[0].take([0, fold + 1]), folds=2, fold=fold) for fold in range(2)]
    message = error_on_validation(find_members(folds), tmp_path)
    assert message.startswith(f"{folds[0]} + {folds[1]}: ")
    assert re.search(r"found 1 .*: 000000000\b", message)


@pytest.mark.parametrize("allow_missing", [False, True])
def test_rows_without_an_id_are_refused(tmp_path: Path, allow_missing: bool) -> None:
    for name in ("val", "test"):
        write_foreign(tmp_path / f"{name}.parquet", VAL[0], {"id": [None, *VAL[0].ids[1:]]})
    members = find_members([str(tmp_path / "val.parquet")])
    for message in (
        error_on_validation(members, tmp_path, allow_missing=allow_missing),
        error_on_test(members, tmp_path, allow_missing=allow_missing),
    ):
        assert re.search(r"\bid\b.*found 1 without", message)


@pytest.mark.parametrize(
    ("others", "found"),
    [
        (["rose", "iris", "tulip"], r"3 classes, .*\b2\b.*'tulip'.*'moon orchid'"),
        (["iris", "rose", "moon orchid"], r"3 classes, .*\b0\b.*'iris'.*'rose'"),
        (["rose", "iris"], "2 classes"),
        ([*CLASSES, "tulip"], "4 classes"),
    ],
)
def test_other_classes_are_refused(tmp_path: Path, others: list[str], found: str) -> None:
    first = write_named_run(tmp_path, "a", VAL[0])
    second = write_named_run(tmp_path, "b", make_rows(12, 1, classes=len(others)), class_names=others)
    members = find_members([first, second])
    message = rf"{second}: .*\b3 classes of {first}\b.*, found {found}\."
    with pytest.raises(InputError, match=message):
        check_same_classes(members)
    assert re.search(message, error_on_validation(members, tmp_path))
    assert re.search(message, error_on_test(members, tmp_path))


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("row", "expected", "example"),
    [
        ([0.5, 0.4, 0.0], "sum to one", "0000000XX: 0.9"),
        ([0.0, 0.0, 0.0], "sum to one", "0000000XX: 0"),
        ([3.0, 1.0, -1.0], "at least 0", "0000000XX"),
        ([1.1, 0.0, -0.1], "at least 0", "0000000XX"),
        ([NAN, 0.5, 0.5], "finite numbers", "0000000XX"),
        ([INFINITE, 0.0, 0.0], "finite numbers", "0000000XX"),
        ([INFINITE, -INFINITE, 1.0], "finite numbers", "0000000XX"),
    ],
)
def test_rows_that_are_not_probabilities_are_refused(
    tmp_path: Path, row: list[float], expected: str, example: str
) -> None:
    members = make_members(tmp_path, VAL[:2], TEST[:2])
    # Written as by another program: our writer refuses numbers that are not finite.
    write_foreign(members[1].val[0], VAL[1].replace_row(10, probabilities=row))
    write_foreign(members[1].test[0], TEST[1].replace_row(6, probabilities=row))
    for split, message, number in (
        ("val", error_on_validation(members, tmp_path), "0a"),
        ("test", error_on_test(members, tmp_path), "6a"),
    ):
        values = re.escape(example.replace("XX", number))
        place = rf"{tmp_path / 'b'} \(predictions/{split}\.parquet\)"
        assert re.match(rf"{place}: .*\b{expected}\b.*found 1 bad row .*\({values}\)\.", message)


def test_problems_are_counted_over_the_whole_file(tmp_path: Path) -> None:
    many = make_rows(20_000, 0)
    many.probabilities[8000:8500] *= 2
    message = error_on_validation(make_members(tmp_path, [many]), tmp_path)
    assert re.search(r"found 500 bad rows .*\(000001f40: 2, 000001f41: 2, 000001f42: 2, \.\.\.\)", message)


def test_a_missing_probability_is_refused(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "val.parquet", VAL[0], {"rose": [None, *[0.5] * 11]})
    message = error_on_validation(find_members([str(path)]), tmp_path)
    assert re.match(rf"{path}: .*\bfinite numbers\b.*found 1 bad row ", message)


def test_text_instead_of_a_number_is_refused(tmp_path: Path) -> None:
    for column, values in (("rose", ["much"] * 12), ("label", ["rose"] * 12), ("label", [0.5] * 12)):
        path = write_foreign(tmp_path / "val.parquet", VAL[0], {column: values})
        message = error_on_validation(find_members([str(path)]), tmp_path)
        assert re.match(rf"{path}: .*\btext as ids, and numbers as labels and probabilities\b", message)


@pytest.mark.parametrize(("label", "found"), [(3, "3"), (-2, "-2"), (None, "none")])
def test_a_label_that_is_no_class_is_refused(tmp_path: Path, label: int | None, found: str) -> None:
    labels = [*VAL[1].labels[:11], label]
    members = make_members(tmp_path, [VAL[0], Rows(VAL[1].ids, labels, VAL[1].probabilities)])
    message = error_on_validation(members, tmp_path)
    assert re.search(r"\bb \(predictions/val\.parquet\): .*\b0 to 2\b", message)
    assert re.search(rf"found 1 bad row .*\(00000000b: {found}\)", message)


def test_labels_that_differ_are_refused(tmp_path: Path) -> None:
    own = VAL[0].labels[7]
    assert own is not None
    other = (own + 1) % 3
    members = make_members(tmp_path, [VAL[0], VAL[1].shuffle(0), VAL[2].replace_row(7, label=other).shuffle(1)])
    place = rf"{tmp_path / 'c'} \(predictions/val\.parquet\)"
    pattern = rf"{place}: .*\blabel\b.*found 1 bad row .*\(000000007: {other}, not {own}\)\."
    assert re.match(pattern, error_on_validation(members, tmp_path))


def test_skipped_test_records_are_refused_unless_missing_ones_are_allowed(tmp_path: Path) -> None:
    runs = [
        write_named_run(tmp_path, name, VAL[0], TEST[0], test_skipped=skipped) for name, skipped in (("a", 0), ("b", 4))
    ]
    members = find_members(runs)
    message = error_on_test(members, tmp_path)
    assert re.match(rf"{runs[1]} \(predictions/test\.parquet\): .*\b4 .*\bskipped\b", message)
    assert_aligned(align_test(members, tmp_path, allow_missing=True), TEST[0].ids, [index_by_id(TEST[0])] * 2)


def test_skipped_test_records_of_any_fold_are_refused(tmp_path: Path) -> None:
    folds = [
        write_named_run(tmp_path, f"{fold}", VAL[0].take([fold]), TEST[0], folds=2, fold=fold, test_skipped=4 * fold)
        for fold in range(2)
    ]
    assert re.search(r"\b4 .*\bskipped\b", error_on_test(find_members(folds), tmp_path))


def test_skipped_validation_records_do_not_affect_the_test_rows(tmp_path: Path) -> None:
    run = write_named_run(tmp_path, "a", VAL[0], skipped=2, weights="same")
    write_named_run(tmp_path / "other", "a", VAL[0], TEST[0], weights="same")
    shutil.copy(tmp_path / "other/a/predictions/test.parquet", tmp_path / "a/predictions/test.parquet")
    assert_aligned(align_test(find_members([run]), tmp_path, allow_missing=False), TEST[0].ids, [index_by_id(TEST[0])])


def test_too_little_disk_space_is_reported_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = make_members(tmp_path, VAL)
    usage = namedtuple("usage", "total used free")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    needed = 4 * 3 * 12 * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed - 1))
    message = error_on_validation(members, scratch)
    assert message.startswith(f"{scratch}: ")
    assert " 0.0 GB " in message
    assert "paths.log_dir=DIR" in message
    assert list(scratch.iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, needed))
    assert len(align_validation(members, scratch, allow_missing=False).ids) == 12


def test_aligned_predictions_are_on_the_disk_before_they_are_written(tmp_path: Path) -> None:
    aligned = align_validation(make_members(tmp_path, VAL), tmp_path, allow_missing=False)
    assert aligned.file.stat().st_blocks * 512 >= aligned.file.stat().st_size == 4 * 3 * 12 * 3


def test_a_quota_is_reported(tmp_path: Path) -> None:
    members = make_members(tmp_path, VAL)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # for each file that this process writes
    try:
        message = error_on_validation(members, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert message.startswith(f"{tmp_path}: ") and "quota" in message


def test_a_damaged_page_is_refused(tmp_path: Path) -> None:
    rows = make_rows(5_000, 0)
    path = write_foreign(tmp_path / "val.parquet", rows)
    whole = path.read_bytes()
    for place in range(200, len(whole) - 3_000, len(whole) // 40):
        path.write_bytes(whole[:place] + bytes(40) + whole[place + 40 :])
        try:
            aligned = align_validation(find_members([str(path)]), tmp_path, allow_missing=False)
        except InputError as error:
            assert "val.parquet" in str(error)
        else:
            assert len(aligned.ids) == 5_000


@pytest.mark.parametrize("ids", [[["a"]] * 12, [{"a": 1}] * 12, [b"\xff\xfe"] * 12])
def test_ids_that_are_not_text_are_refused(tmp_path: Path, ids: list[object]) -> None:
    path = write_foreign(tmp_path / "val.parquet", VAL[0], {"id": ids})
    message = error_on_validation(find_members([str(path)]), tmp_path)
    assert message.startswith(f"{path}: ")
    assert "text as ids" in message


def test_a_member_without_test_rows_is_refused(tmp_path: Path) -> None:
    members = make_members(tmp_path, VAL[:2], [TEST[0], TEST[1].take([])])
    for allow_missing in (False, True):
        message = error_on_test(members, tmp_path, allow_missing=allow_missing)
        assert message.startswith(f"{tmp_path / 'b'} (predictions/test.parquet): ")
        assert "test images" in message
