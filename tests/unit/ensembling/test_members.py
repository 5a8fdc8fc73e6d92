"""Directories, files and patterns become the members of an ensemble, and invalid ones are refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowers.ensembling.members import find_members
from flowers.errors import InputError
from tests.helpers.members import CLASSES, make_rows, write_file, write_foreign, write_run

VAL, TEST = make_rows(12, 0), make_rows(5, 0, first=100)


def error_message(*runs: str) -> str:
    """Return the message with which the runs are refused."""
    with pytest.raises(InputError) as caught:
        find_members(runs)
    return str(caught.value)


def test_a_run_directory_is_a_member_with_its_test_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, TEST, tta="flips")
    [member] = find_members([run])
    assert member.name == run
    assert member.val == [tmp_path / "run/predictions/val.parquet"]
    assert member.test == [tmp_path / "run/predictions/test.parquet"]
    assert member.provenance.class_names == CLASSES
    assert member.title == "resnet18, 224 px, TTA flips"


def test_a_predictions_directory_without_a_test_file_is_a_member(tmp_path: Path) -> None:
    write_run(tmp_path / "run", VAL)
    [member] = find_members([str(tmp_path / "run" / "predictions")])
    assert member.val == [tmp_path / "run/predictions/val.parquet"]
    assert member.test == []


def test_patterns_are_sorted_and_entries_keep_their_order(tmp_path: Path) -> None:
    for name in ("2", "0", "1"):
        write_run(tmp_path / "multirun" / name, VAL)
    (tmp_path / "multirun" / "multirun.yaml").write_text("no run")
    last = write_run(tmp_path / "another", VAL)
    members = find_members([last, str(tmp_path / "multirun" / "*")])
    assert [Path(member.name).name for member in members] == ["another", "0", "1", "2"]


def test_a_file_is_a_member_with_the_test_file_of_the_same_name(tmp_path: Path) -> None:
    for name in ("eval_val_1", "eval_test_1", "eval_val_2"):
        write_file(tmp_path / f"{name}.parquet", VAL, split=name.split("_")[1], run=name, weights=name[-1])
    first, second = find_members([str(tmp_path / "eval_val_*.parquet")])
    assert (first.name, second.name) == tuple(str(tmp_path / f"eval_val_{number}.parquet") for number in (1, 2))
    assert first.test == [tmp_path / "eval_test_1.parquet"]
    assert second.test == []


def test_a_file_of_another_program_needs_no_metadata(tmp_path: Path) -> None:
    path = write_foreign(tmp_path / "val.parquet", VAL)
    write_foreign(tmp_path / "test.parquet", TEST)
    [member] = find_members([str(path)])
    assert member.name == member.title == str(path)
    assert member.test == [tmp_path / "test.parquet"]
    assert member.provenance.class_names == CLASSES


def write_fold_run(root: Path, fold: int, **provenance: object) -> str:
    """Write a run on one of three folds."""
    val = make_rows(4, fold, first=4 * fold)
    fields = {"folds": 3, "fold": fold, "recipe": "abc", **provenance}
    return write_run(root / "_".join(map(str, fields.values())), val, TEST, **fields)


def test_fold_siblings_are_one_member(tmp_path: Path) -> None:
    runs = [write_fold_run(tmp_path, fold) for fold in range(3)]
    single = write_run(tmp_path / "single", VAL, TEST)
    siblings, other = find_members([runs[0], single, *runs[1:]])
    assert siblings.name == " + ".join(runs)
    assert siblings.val == [Path(run) / "predictions/val.parquet" for run in runs]
    assert siblings.test == [Path(run) / "predictions/test.parquet" for run in runs]
    assert siblings.title == "resnet18, 224 px, 3 of 3 folds"
    assert other.name == single


@pytest.mark.parametrize("other", [{"tta": "flips"}, {"recipe": "def"}, {"image_size": 512}])
def test_folds_of_another_recipe_tta_or_size_are_separate_members(tmp_path: Path, other: dict[str, object]) -> None:
    runs = [write_fold_run(tmp_path, fold, **fields) for fields in ({}, other) for fold in range(3)]
    assert [member.name for member in find_members(runs)] == [" + ".join(runs[:3]), " + ".join(runs[3:])]


def test_runs_without_folds_are_separate_members(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, VAL, recipe="abc") for name in "ab"]
    assert [member.name for member in find_members(runs)] == runs


def test_a_duplicate_fold_is_refused(tmp_path: Path) -> None:
    first = write_fold_run(tmp_path / "first", 1)
    again = write_fold_run(tmp_path / "again", 1)
    message = error_message(write_fold_run(tmp_path, 0), first, again)
    assert message.startswith(again) and first in message
    assert "fold 1" in message


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*"])
def test_a_missing_path_is_refused(tmp_path: Path, name: str) -> None:
    entry = str(tmp_path / name)
    assert error_message(entry).startswith(f"runs: {entry}: ")


def test_an_empty_list_of_runs_is_refused() -> None:
    assert error_message().startswith("runs=[]: ")


def test_a_pattern_that_finds_no_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text("no run")
    assert error_message(str(tmp_path / "*")).startswith(f"runs: {tmp_path / '*'}: ")


@pytest.mark.parametrize("pattern", ["run", "*"])
def test_a_run_without_validation_predictions_is_refused_with_the_command(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "run").mkdir()
    message = error_message(str(tmp_path / pattern))
    assert "predictions/val.parquet" in message
    assert f"`python src/predict.py run={tmp_path / 'run'} split=val`" in message


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL)
    for again in (run, str(tmp_path / "*"), f"{run}/predictions/val.parquet"):
        assert re.match(rf"{run}/predictions/val\.parquet: .*\bmember once\b", error_message(run, again))


def test_the_same_file_by_another_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", VAL)
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    for again in ("run", "run/../run", "link"):
        assert "member once" in error_message(run, again)


def test_predictions_of_another_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        path = write_file(tmp_path / split / "val.parquet", VAL, split=split, run="RUN")
        message = error_message(str(path))
        assert re.search(rf"{path}: .*\b{split} split\b", message)
        assert ("trained on" in message) == (split == "train")
        assert "`python src/predict.py run=RUN split=val`" in message


def test_a_test_file_given_for_the_validation_file_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, TEST)
    message = error_message(f"{run}/predictions/test.parquet")
    assert re.search(r"test\.parquet: .*\bvalidation predictions\b", message)


def test_validation_predictions_in_the_test_file_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL)
    path = write_file(tmp_path / "run" / "predictions" / "test.parquet", VAL, split="val")
    assert re.match(rf"{path}: .*\btest split\b.*\bval\b", error_message(run))


def test_a_model_trained_on_its_validation_images_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, trained_on="train+val")
    message = error_message(run)
    assert "train+val" in message
    assert f"data.train_on of {run}" in message


@pytest.mark.parametrize("folder", ["predictions", "."])
def test_a_fold_without_a_test_file_is_refused(tmp_path: Path, folder: str) -> None:
    runs = [str(tmp_path / str(fold)) for fold in range(3)]
    for fold, run in enumerate(runs):
        fields = {"run": run, "folds": 3, "fold": fold, "recipe": "abc"}
        files = Path(run) / folder
        write_file(files / "val.parquet", make_rows(4, fold, first=4 * fold), **fields)
        if fold != 1:
            write_file(files / "test.parquet", TEST, **fields)
    message = error_message(*runs)
    assert message.startswith(f"{Path(runs[1]) / folder / 'test.parquet'}: ")
    assert f"`python src/predict.py run={runs[1]} split=test`" in message


@pytest.mark.parametrize("file", ["val", "test", "sibling"])
def test_files_of_one_member_with_other_classes_are_refused(tmp_path: Path, file: str) -> None:
    fields = {"folds": 2, "recipe": "abc", "image_size": 224, "tta": "none"}
    runs = [
        write_run(tmp_path / str(fold), make_rows(4, 0, first=4 * fold), TEST, fold=fold, **fields) for fold in (0, 1)
    ]
    split = "test" if file == "test" else "val"
    path = tmp_path / ("0" if file == "val" else "1") / "predictions" / f"{split}.parquet"
    rows = make_rows(4, 0, first=0 if file == "val" else 4) if split == "val" else TEST
    write_file(path, rows, ["rose", "iris", "tulip"], split=split, **fields, fold=int(file != "val"))
    message = error_message(*runs)
    assert "classes" in message
    assert "'moon orchid'" in message and "'tulip'" in message


def write_csv(path: Path) -> None:
    path.write_text("id,label,rose,iris\n")


def write_without_labels(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "rose": [0.5], "iris": [0.5]}), path)


def write_one_class(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "label": [0], "rose": [1.0]}), path)


def write_duplicate_class(path: Path) -> None:
    columns = [pa.array(values) for values in (["a"], [0], [0.5], [0.5])]
    pq.write_table(pa.Table.from_arrays(columns, ["id", "label", "rose", "rose"]), path)


def write_unknown_metadata(path: Path) -> None:
    table = pa.table({"id": ["a"], "label": [0], "rose": [0.5], "iris": [0.5]})
    pq.write_table(table.replace_schema_metadata({"flowers": '{"colour": "red"}'}), path)


def write_other_classes(path: Path) -> None:
    fields = '{"run": "", "split": "val", "image_size": 1, "tta": "", "class_names": ["iris", "rose"]}'
    table = pa.table({"id": ["a"], "label": [0], "rose": [0.5], "iris": [0.5]})
    pq.write_table(table.replace_schema_metadata({"flowers": fields}), path)


@pytest.mark.parametrize(
    "write",
    [
        write_csv,
        write_without_labels,
        write_one_class,
        write_duplicate_class,
        write_unknown_metadata,
        write_other_classes,
    ],
)
def test_a_file_that_holds_no_predictions_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "val.parquet"
    write(path)
    assert re.match(rf"{path}: .*\bpredictions file\b.*found \w+: ", error_message(str(path)))


@pytest.mark.parametrize(
    ("what", "val", "test"),
    [("tta", "flip", "none"), ("image_size", 224, 512), ("eval_size", 192, 264), ("recipe", "a", "b"), ("fold", 0, 3)],
)
def test_test_predictions_of_another_model_or_of_other_views_are_refused(
    tmp_path: Path, what: str, val: object, test: object
) -> None:
    write_file(tmp_path / "val.parquet", VAL, **{what: val})
    write_file(tmp_path / "test.parquet", TEST, **{what: test})
    message = rf"test\.parquet: .*\b{what} .*, {val}, found {test}\b"
    with pytest.raises(InputError, match=message):
        find_members([str(tmp_path / "val.parquet")])


@pytest.mark.parametrize(("val", "test"), [("a", "b"), ("", "b"), ("a", "")])
def test_test_predictions_of_other_weights_are_refused(tmp_path: Path, val: str, test: str) -> None:
    write_file(tmp_path / "val.parquet", VAL, weights=val)
    path = write_file(tmp_path / "test.parquet", TEST, weights=test)
    message = error_message(str(tmp_path / "val.parquet"))
    assert re.match(rf"{path}: .*\bweights .*, {val}, found {test}", message)


def test_test_predictions_without_recorded_weights_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, TEST, recipe="abc", weights="")
    message = error_message(run)
    assert message.startswith(f"{run}/predictions/val.parquet: ") and "weights" in message
    assert f"`python src/predict.py --multirun run={run} split=val,test`" in message


def test_validation_predictions_alone_need_no_weights(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, recipe="abc", weights="")
    assert [member.test for member in find_members([run])] == [[]]


def test_an_ensemble_needs_no_recorded_weights(tmp_path: Path) -> None:
    run = write_run(tmp_path / "ensemble", VAL, TEST, weights="")
    assert len(find_members([run])) == 1


def test_the_same_weights_and_views_twice_are_refused(tmp_path: Path) -> None:
    first, copy = (write_run(tmp_path / name, VAL, TEST, weights="same") for name in ("run", "copy"))
    message = error_message(first, copy)
    assert message.startswith(f"{copy}/predictions/val.parquet: ") and f"{first}/predictions/val.parquet" in message


@pytest.mark.parametrize("other", [{"tta": "flips"}, {"image_size": 512}, {"eval_size": 264}])
def test_the_same_weights_with_other_views_are_another_member(tmp_path: Path, other: dict[str, object]) -> None:
    runs = [write_run(tmp_path / "a", VAL, weights="same"), write_run(tmp_path / "b", VAL, weights="same", **other)]
    assert len(find_members(runs)) == 2


def test_predictions_without_recorded_training_splits_are_refused(tmp_path: Path) -> None:
    path = write_file(tmp_path / "val.parquet", VAL, trained_on="")
    with pytest.raises(InputError, match=r"val\.parquet: .*trained on"):
        find_members([str(path)])


@pytest.mark.parametrize(
    ("val", "test"),
    [
        ("oof_val_medieval", "oof_test_medieval"),
        ("validation", "test"),
        ("val2", "test2"),
        ("b7-validation-5", "b7-test-5"),
    ],
)
def test_val_is_replaced_as_a_word_of_the_name(tmp_path: Path, val: str, test: str) -> None:
    path = write_foreign(tmp_path / f"{val}.parquet", VAL)
    write_foreign(tmp_path / f"{test}.parquet", TEST)
    assert find_members([str(path)])[0].test == [tmp_path / f"{test}.parquet"]


def test_a_pattern_of_ensembles_leaves_out_the_one_that_is_being_written(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_run(tmp_path / name, VAL)
    (tmp_path / "third").mkdir()
    members = find_members([str(tmp_path / "*")], tmp_path / "third")
    assert [Path(member.name).name for member in members] == ["first", "second"]


@pytest.mark.parametrize(
    "metadata", ["{", "[]", '{"run": 1}', '{"run": "a", "split": "val", "images_per_second": "fast"}']
)
def test_invalid_metadata_is_refused(tmp_path: Path, metadata: str) -> None:
    table = pq.read_table(write_foreign(tmp_path / "val.parquet", VAL))
    pq.write_table(table.replace_schema_metadata({"flowers": metadata}), tmp_path / "val.parquet")
    with pytest.raises(InputError, match=r"val\.parquet: .*ValidationError"):
        find_members([str(tmp_path / "val.parquet")])
