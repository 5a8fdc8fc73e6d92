"""Which files are a member of an ensemble, and which are refused."""

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


def refused(*runs: str) -> str:
    """The message with which the runs are refused."""
    with pytest.raises(InputError) as caught:
        find_members(runs)
    return str(caught.value)


def test_a_directory_is_a_member_with_the_test_file_beside(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, TEST, tta="flips")
    [member] = find_members([run])
    assert member.name == run
    assert member.val == [tmp_path / "run/predictions/val.parquet"]
    assert member.test == [tmp_path / "run/predictions/test.parquet"]
    assert member.provenance.class_names == CLASSES
    assert member.title == "resnet18, 224 px, TTA flips"


def test_a_directory_of_the_files_themselves_and_without_test_predictions(tmp_path: Path) -> None:
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


def test_a_file_is_a_member_with_the_test_file_of_its_name(tmp_path: Path) -> None:
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


def fold_run(root: Path, fold: int, **provenance: object) -> str:
    """A run on one of three folds."""
    val = make_rows(4, fold, first=4 * fold)
    told = {"folds": 3, "fold": fold, "recipe": "abc", **provenance}
    return write_run(root / "_".join(map(str, told.values())), val, TEST, **told)


def test_fold_siblings_are_one_member(tmp_path: Path) -> None:
    runs = [fold_run(tmp_path, fold) for fold in range(3)]
    single = write_run(tmp_path / "single", VAL, TEST)
    siblings, other = find_members([runs[0], single, *runs[1:]])
    assert siblings.name == " + ".join(runs)
    assert siblings.val == [Path(run) / "predictions/val.parquet" for run in runs]
    assert siblings.test == [Path(run) / "predictions/test.parquet" for run in runs]
    assert siblings.title == "resnet18, 224 px, 3 of 3 folds"
    assert other.name == single


@pytest.mark.parametrize("other", [{"tta": "flips"}, {"recipe": "def"}, {"image_size": 512}])
def test_folds_of_another_recipe_tta_or_size_stay_apart(tmp_path: Path, other: dict[str, object]) -> None:
    runs = [fold_run(tmp_path, fold, **told) for told in ({}, other) for fold in range(3)]
    assert [member.name for member in find_members(runs)] == [" + ".join(runs[:3]), " + ".join(runs[3:])]


def test_runs_without_folds_stay_apart_though_their_recipe_is_the_same(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, VAL, recipe="abc") for name in "ab"]
    assert [member.name for member in find_members(runs)] == runs


def test_a_fold_twice_is_refused(tmp_path: Path) -> None:
    first = fold_run(tmp_path / "first", 1)
    again = fold_run(tmp_path / "again", 1)
    message = refused(fold_run(tmp_path, 0), first, again)
    assert message.startswith(again) and first in message
    assert "fold 1" in message and "Leave one out" in message


@pytest.mark.parametrize("name", ["nowhere", "nowhere/*"])
def test_nothing_there_is_refused(tmp_path: Path, name: str) -> None:
    entry = str(tmp_path / name)
    assert refused(entry).startswith(f"runs: {entry}: no such file or directory.")


def test_no_runs_at_all_are_refused() -> None:
    assert refused().startswith("runs=[]: expected run directories")


def test_a_pattern_that_finds_no_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "multirun.yaml").write_text("no run")
    assert "no such file or directory" in refused(str(tmp_path / "*"))


@pytest.mark.parametrize("pattern", ["run", "*"])
def test_a_run_without_validation_predictions_is_told_how_to_write_them(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "run").mkdir()
    message = refused(str(tmp_path / pattern))
    assert "expected predictions/val.parquet in it, found none" in message
    assert f"`python src/predict.py run={tmp_path / 'run'} split=val`" in message


def test_the_same_file_twice_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL)
    for again in (run, str(tmp_path / "*"), f"{run}/predictions/val.parquet"):
        assert refused(run, again).startswith(f"{run}/predictions/val.parquet: expected each member once")


def test_the_same_file_by_another_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", VAL)
    (tmp_path / "link").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    for again in ("run", "run/../run", "link"):
        assert "expected each member once" in refused(run, again)


def test_predictions_of_another_split_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        path = write_file(tmp_path / split / "val.parquet", VAL, split=split, run="RUN")
        message = refused(str(path))
        assert f"{path}: expected validation predictions, found those of the {split} split" in message
        assert ("which the model was trained on" in message) == (split == "train")
        assert "`python src/predict.py run=RUN split=val`" in message


def test_a_test_file_given_for_the_validation_file_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, TEST)
    assert "test.parquet: expected the validation predictions" in refused(f"{run}/predictions/test.parquet")


def test_validation_predictions_in_the_test_file_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL)
    path = write_file(tmp_path / "run" / "predictions" / "test.parquet", VAL, split="val")
    assert refused(run).startswith(f"{path}: expected predictions of the test split, found those of val")


def test_a_model_that_was_trained_on_its_validation_images_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, trained_on="train+val")
    message = refused(run)
    assert f"found a model trained on train+val (data.train_on of {run})" in message


@pytest.mark.parametrize("folder", ["predictions", "."])
def test_a_fold_without_a_test_file_is_refused(tmp_path: Path, folder: str) -> None:
    runs = [str(tmp_path / str(fold)) for fold in range(3)]
    for fold, run in enumerate(runs):
        told = {"run": run, "folds": 3, "fold": fold, "recipe": "abc"}
        files = Path(run) / folder
        write_file(files / "val.parquet", make_rows(4, fold, first=4 * fold), **told)
        if fold != 1:
            write_file(files / "test.parquet", TEST, **told)
    message = refused(*runs)
    assert message.startswith(f"{Path(runs[1]) / folder / 'test.parquet'}: no such file")
    assert f"`python src/predict.py run={runs[1]} split=test`" in message


@pytest.mark.parametrize("file", ["val", "test", "sibling"])
def test_files_of_one_member_with_other_classes_are_refused(tmp_path: Path, file: str) -> None:
    told = {"folds": 2, "recipe": "abc", "image_size": 224, "tta": "none"}
    runs = [
        write_run(tmp_path / str(fold), make_rows(4, 0, first=4 * fold), TEST, fold=fold, **told) for fold in (0, 1)
    ]
    split = "test" if file == "test" else "val"
    path = tmp_path / ("0" if file == "val" else "1") / "predictions" / f"{split}.parquet"
    rows = make_rows(4, 0, first=0 if file == "val" else 4) if split == "val" else TEST
    write_file(path, rows, ["rose", "iris", "tulip"], split=split, **told, fold=int(file != "val"))
    message = refused(*runs)
    assert "expected the classes of" in message
    assert "'moon orchid'" in message and "'tulip'" in message


def no_parquet(path: Path) -> None:
    path.write_text("id,label,rose,iris\n")


def no_labels(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "rose": [0.5], "iris": [0.5]}), path)


def one_class(path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "label": [0], "rose": [1.0]}), path)


def a_class_twice(path: Path) -> None:
    columns = [pa.array(values) for values in (["a"], [0], [0.5], [0.5])]
    pq.write_table(pa.Table.from_arrays(columns, ["id", "label", "rose", "rose"]), path)


def unknown_metadata(path: Path) -> None:
    table = pa.table({"id": ["a"], "label": [0], "rose": [0.5], "iris": [0.5]})
    pq.write_table(table.replace_schema_metadata({"flowers": '{"colour": "red"}'}), path)


def other_classes(path: Path) -> None:
    told = '{"run": "", "split": "val", "image_size": 1, "tta": "", "class_names": ["iris", "rose"]}'
    table = pa.table({"id": ["a"], "label": [0], "rose": [0.5], "iris": [0.5]})
    pq.write_table(table.replace_schema_metadata({"flowers": told}), path)


@pytest.mark.parametrize("write", [no_parquet, no_labels, one_class, a_class_twice, unknown_metadata, other_classes])
def test_what_is_no_predictions_file_is_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "val.parquet"
    write(path)
    assert re.match(f"{re.escape(str(path))}: expected a predictions file, found \\w+: ", refused(str(path)))


@pytest.mark.parametrize(
    ("what", "val", "test"),
    [("tta", "flip", "none"), ("image_size", 224, 512), ("eval_size", 192, 264), ("recipe", "a", "b"), ("fold", 0, 3)],
)
def test_test_predictions_of_another_model_or_of_other_views_are_refused(
    tmp_path: Path, what: str, val: object, test: object
) -> None:
    write_file(tmp_path / "val.parquet", VAL, **{what: val})
    write_file(tmp_path / "test.parquet", TEST, **{what: test})
    message = f"test.parquet: expected the {what} of the validation predictions, {val}, found {test}: weights fitted"
    with pytest.raises(InputError, match=message):
        find_members([str(tmp_path / "val.parquet")])


@pytest.mark.parametrize(("val", "test"), [("a", "b"), ("", "b"), ("a", "")])
def test_test_predictions_of_other_weights_are_refused(tmp_path: Path, val: str, test: str) -> None:
    write_file(tmp_path / "val.parquet", VAL, weights=val)
    path = write_file(tmp_path / "test.parquet", TEST, weights=test)
    message = refused(str(tmp_path / "val.parquet"))
    assert message.startswith(f"{path}: expected the weights of the validation predictions, {val}, found {test}")


def test_test_predictions_that_nothing_ties_to_the_weights_are_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, TEST, recipe="abc", weights="")
    message = refused(run)
    assert message.startswith(f"{run}/predictions/val.parquet: ") and "weights" in message
    assert f"`python src/predict.py --multirun run={run} split=val,test`" in message


def test_validation_predictions_alone_need_no_weights(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", VAL, recipe="abc", weights="")
    assert [member.test for member in find_members([run])] == [[]]


def test_an_ensemble_has_no_weights_of_its_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "ensemble", VAL, TEST, weights="")
    assert len(find_members([run])) == 1


def test_the_same_weights_and_views_twice_are_refused(tmp_path: Path) -> None:
    first, copy = (write_run(tmp_path / name, VAL, TEST, weights="same") for name in ("run", "copy"))
    message = refused(first, copy)
    assert message.startswith(f"{copy}/predictions/val.parquet: ") and f"{first}/predictions/val.parquet" in message


@pytest.mark.parametrize("other", [{"tta": "flips"}, {"image_size": 512}, {"eval_size": 264}])
def test_the_same_weights_with_other_views_are_another_member(tmp_path: Path, other: dict[str, object]) -> None:
    runs = [write_run(tmp_path / "a", VAL, weights="same"), write_run(tmp_path / "b", VAL, weights="same", **other)]
    assert len(find_members(runs)) == 2


def test_predictions_without_a_record_of_what_was_trained_on_are_refused(tmp_path: Path) -> None:
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
def test_val_is_a_word_in_the_name(tmp_path: Path, val: str, test: str) -> None:
    path = write_foreign(tmp_path / f"{val}.parquet", VAL)
    write_foreign(tmp_path / f"{test}.parquet", TEST)
    assert find_members([str(path)])[0].test == [tmp_path / f"{test}.parquet"]


def test_a_pattern_of_ensembles_leaves_out_the_ensemble_that_is_being_made(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_run(tmp_path / name, VAL)
    (tmp_path / "third").mkdir()
    members = find_members([str(tmp_path / "*")], tmp_path / "third")
    assert [Path(member.name).name for member in members] == ["first", "second"]


@pytest.mark.parametrize(
    "metadata", ["{", "[]", '{"run": 1}', '{"run": "a", "split": "val", "images_per_second": "fast"}']
)
def test_metadata_that_are_none_are_refused(tmp_path: Path, metadata: str) -> None:
    table = pq.read_table(write_foreign(tmp_path / "val.parquet", VAL))
    pq.write_table(table.replace_schema_metadata({"flowers": metadata}), tmp_path / "val.parquet")
    with pytest.raises(InputError, match=r"val\.parquet: expected a predictions file, found ValidationError"):
        find_members([str(tmp_path / "val.parquet")])
