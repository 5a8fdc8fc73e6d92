"""An ensemble writes predictions, a summary and a submission, and leaves no files behind when it is refused."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from flowers.ensembling.ensemble import Ensemble, ensemble
from flowers.ensembling.members import find_members
from flowers.errors import InputError
from flowers.training.predictions import read_provenance
from tests.helpers.ensembles import TEST, VAL, find_leftovers, read_summary, settings, write_runs
from tests.helpers.members import CLASSES, Rows, make_rows, write_file, write_foreign, write_run


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return write_runs(tmp_path)


def read_probabilities(path: Path) -> dict[str, np.ndarray]:
    """Return the probabilities of each id."""
    table = pq.read_table(path)
    columns = np.stack([table[name].to_numpy() for name in CLASSES], 1)
    return dict(zip(table["id"].to_pylist(), columns, strict=True))


def read_submission(directory: Path) -> dict[str, int]:
    """Return each id's label in the submission, after checking that no id occurs twice."""
    rows = list(csv.reader((directory / "submission.csv").open()))
    assert rows[0] == ["id", "label"]
    result = {identity: int(label) for identity, label in rows[1:]}
    assert len(result) == len(rows) - 1
    return result


def blend_by_hand(directory: Path, runs: list[str], split: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each id with the weighted mean of its calibrated probabilities, computed from ensemble.json."""
    members = read_summary(directory)["members"]
    files = [read_probabilities(Path(run) / "predictions" / f"{split}.parquet") for run in runs]
    for identity in files[0]:
        total = np.zeros(len(CLASSES))
        for member, file in zip(members, files, strict=True):
            scaled = file[identity].astype(np.float64) ** (1 / member["temperature"])
            total += member["weight"] * scaled / scaled.sum()
        yield identity, total


def test_a_blend_without_test_predictions_removes_those_of_an_earlier_one(runs: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    ensemble(settings(output, runs))
    written = [output / "submission.csv", output / "predictions" / "test.parquet"]
    assert all(path.exists() for path in written)
    for run in runs:
        (Path(run) / "predictions" / "test.parquet").unlink()
    ensemble(settings(output, runs))
    assert not any(path.exists() for path in written)
    assert read_summary(output)["members"][0]["test_rows_missing"] == 0


def assert_refused(output: Path, runs: list[str], message: str, **changes: Any) -> None:
    with pytest.raises(InputError, match=message):
        ensemble(settings(output, runs, **changes))
    assert find_leftovers(output) == []
    for name in ("ensemble.json", "submission.csv", "predictions"):
        assert not (output / name).exists()


def test_an_ensemble_writes_all_its_files(tmp_path: Path, runs: list[str]) -> None:
    output = tmp_path / "ensemble"
    result = ensemble(settings(output, runs))
    names = ("predictions/val.parquet", "predictions/test.parquet", "submission.csv", "ensemble.json")
    assert result.files == [output / name for name in names]
    assert sorted(path for path in output.rglob("*") if path.is_file()) == sorted(result.files)
    assert find_leftovers(output) == []
    assert result.rows == (60, 30)
    val = pq.read_table(output / "predictions/val.parquet")
    assert dict(zip(val["id"].to_pylist(), val["label"].to_pylist(), strict=True)) == dict(
        zip(VAL[0].ids, VAL[0].labels, strict=True)
    )
    test = pq.read_table(output / "predictions/test.parquet")
    assert sorted(test["id"].to_pylist()) == sorted(TEST[0].ids)
    assert test["label"].null_count == 30
    for table in (val, test):
        assert table.column_names == ["id", "label", *CLASSES]
        np.testing.assert_allclose(sum(table[name].to_numpy() for name in CLASSES), 1, atol=1e-6)
    assert read_submission(output) == {
        identity: row.argmax() for identity, row in read_probabilities(output / "predictions/test.parquet").items()
    }


def test_the_summary_describes_the_ensemble(tmp_path: Path, runs: list[str]) -> None:
    output = tmp_path / "ensemble"
    ensemble(settings(output, runs))
    summary = read_summary(output)
    assert summary["method"] in summary["methods"]
    assert summary["chosen_by"] == "cross-validation"
    assert [member["name"] for member in summary["members"]] == runs
    for run, member in zip(runs, summary["members"], strict=True):
        files = [f"{run}/predictions/{split}.parquet" for split in ("val", "test")]
        assert member["sha256"] == {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files}
        assert (member["backbone"], member["image_size"], member["parameters"]) == ("resnet18", 224, 10)
        assert member["macro_f1"]["low"] <= member["macro_f1"]["value"] <= member["macro_f1"]["high"]
    assert sum(member["weight"] for member in summary["members"]) == pytest.approx(1)
    assert (summary["validation_rows"], summary["test_rows"]) == (60, 30)
    assert summary["class_offsets"] is None
    expected_settings = {"folds": 5, "resamples": 100, "seed": 42, "allow_missing": False, "offsets": False}
    assert summary["settings"] == expected_settings | {"runs": runs, "method": "auto", "methods": ["mean", "weights"]}
    written = ("predictions/val.parquet", "predictions/test.parquet", "submission.csv")
    digests = {Path(name).name: hashlib.sha256((output / name).read_bytes()).hexdigest() for name in written}
    assert summary["sha256"] == digests


def test_scores_of_members_and_ensemble_match_scikit_learn(tmp_path: Path, runs: list[str]) -> None:
    output = tmp_path / "ensemble"
    ensemble(settings(output, runs))
    summary = read_summary(output)
    scores = [f1_score(rows.labels, rows.probabilities.argmax(1), average="macro") for rows in VAL]
    assert [member["macro_f1"]["value"] for member in summary["members"]] == pytest.approx(scores, abs=1e-6)
    assert summary["best_member"] == runs[int(np.argmax(scores))]
    losses = [-np.log(rows.probabilities[np.arange(60), rows.labels]).mean() for rows in VAL]
    assert [member["log_loss"] for member in summary["members"]] == pytest.approx(losses, rel=1e-5)
    val = read_probabilities(output / "predictions/val.parquet")
    blended = np.stack([val[identity] for identity in VAL[0].ids])
    score = f1_score(VAL[0].labels, blended.argmax(1), average="macro")
    assert summary["macro_f1"]["validated"]["value"] == pytest.approx(score, abs=1e-6)
    assert summary["macro_f1"]["gain"]["value"] == pytest.approx(score - max(scores), abs=1e-6)


@pytest.mark.parametrize("method", ["mean", "weights"])
def test_test_rows_are_blended_as_in_the_summary(tmp_path: Path, method: str) -> None:
    skills = (0.5, 1.5, 3.0)
    runs = [
        write_run(
            tmp_path / f"{at}",
            make_rows(200, at, skill=skill),
            make_rows(5000, at, first=1000, skill=skill).shuffle(at),
        )
        for at, skill in enumerate(skills)
    ]
    output = tmp_path / "ensemble"
    ensemble(settings(output, runs, method=method))
    assert read_summary(output)["chosen_by"] == "the user"
    weights = [member["weight"] for member in read_summary(output)["members"]]
    assert weights == pytest.approx([1 / 3] * 3) if method == "mean" else weights[2] > 0.6
    blended = read_probabilities(output / "predictions/test.parquet")
    answer = dict(blend_by_hand(output, runs, "test"))
    assert list(blended) == list(answer)
    np.testing.assert_allclose(list(blended.values()), list(answer.values()), atol=2e-6)


def test_validation_rows_are_predicted_out_of_fold(tmp_path: Path, runs: list[str]) -> None:
    output = tmp_path / "ensemble"
    ensemble(settings(output, runs, method="weights"))
    written = read_probabilities(output / "predictions/val.parquet")
    fitted = dict(blend_by_hand(output, runs, "val"))
    distances = [np.abs(written[identity] - row).max() for identity, row in fitted.items()]
    assert max(distances) > 1e-3
    assert np.mean(distances) < 0.15


def test_an_ensemble_can_be_a_member_of_another(tmp_path: Path, runs: list[str]) -> None:
    inner, outer = tmp_path / "inner", tmp_path / "outer"
    ensemble(settings(inner, runs[:2]))
    [member] = find_members([str(inner)])
    assert (member.name, member.title) == (str(inner), "ensemble of 2")
    assert (member.provenance.parameters, member.provenance.images_per_second) == (20, pytest.approx(15))
    result = ensemble(settings(outer, [str(inner), runs[2]]))
    assert [member["name"] for member in read_summary(outer)["members"]] == [str(inner), runs[2]]
    assert result.rows == (60, 30)
    assert sorted(read_submission(outer)) == sorted(TEST[0].ids)
    for split in ("val", "test"):
        assert read_provenance(outer / "predictions" / f"{split}.parquet").split == split


def test_the_cost_of_an_ensemble_includes_the_models_of_all_folds(tmp_path: Path, runs: list[str]) -> None:
    folds = [
        write_run(
            tmp_path / f"fold{fold}",
            VAL[0].take(range(fold, 60, 3)),
            TEST[0],
            folds=3,
            fold=fold,
            parameters=10,
            images_per_second=30.0,
            licence="mit, apache-2.0" if fold else "",
        )
        for fold in range(3)
    ]
    ensemble(settings(tmp_path / "ensemble", [*folds, runs[1]]))
    cost = read_provenance(tmp_path / "ensemble/predictions/test.parquet")
    assert cost.licence == "apache-2.0, mit"
    assert cost.backbone == "ensemble of 2"
    assert cost.parameters == 40
    assert cost.images_per_second == pytest.approx(30 / 4)


def test_the_cost_is_unknown_if_a_members_cost_is(tmp_path: Path, runs: list[str]) -> None:
    write_foreign(tmp_path / "foreign/val.parquet", VAL[1])
    write_foreign(tmp_path / "foreign/test.parquet", TEST[1])
    ensemble(settings(tmp_path / "ensemble", [runs[0], str(tmp_path / "foreign/val.parquet")]))
    cost = read_provenance(tmp_path / "ensemble/predictions/val.parquet")
    assert (cost.parameters, cost.images_per_second) == (None, None)


def test_an_ensemble_of_one_member_predicts_as_it_does(tmp_path: Path, runs: list[str]) -> None:
    output = tmp_path / "ensemble"
    ensemble(settings(output, runs[:1], method="mean"))
    [member] = read_summary(output)["members"]
    assert (member["weight"], member["adds"]) == (1, None)
    assert read_summary(output)["correlations"] == [[1]]
    votes = dict(zip(TEST[0].ids, TEST[0].probabilities.argmax(1), strict=True))
    assert read_submission(output) == votes


def test_without_test_predictions_there_is_no_submission(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{at}", rows) for at, rows in enumerate(VAL)]
    output = tmp_path / "ensemble"
    result = ensemble(settings(output, runs))
    assert result.rows == (60, 0)
    assert read_summary(output)["test_rows"] == 0
    assert sorted(path.name for path in output.rglob("*.*")) == ["ensemble.json", "val.parquet"]


def test_test_predictions_of_some_members_only_are_refused(tmp_path: Path, runs: list[str]) -> None:
    untested = write_run(tmp_path / "untested", VAL[0])
    message = rf"{untested}: .*\btest predictions\b.*val\.parquet"
    assert_refused(tmp_path / "ensemble", [*runs, untested], message)
    assert not (tmp_path / "ensemble").exists()


def test_a_refused_ensemble_leaves_no_files(tmp_path: Path, runs: list[str]) -> None:
    fewer_val = write_run(tmp_path / "fewer_val", VAL[0].take(range(50)), TEST[0])
    fewer_test = write_run(tmp_path / "fewer_test", VAL[0], TEST[0].take(range(20)))
    broken = write_run(tmp_path / "broken", VAL[0], TEST[0].replace_row(3, probabilities=[2, 2, 2]))
    assert_refused(tmp_path / "ensemble", [*runs, fewer_val], "60 validation ids")
    assert_refused(tmp_path / "ensemble", [*runs, fewer_test], "30 test ids")
    assert_refused(tmp_path / "ensemble", [*runs, broken], "sum to one")
    ensemble(settings(tmp_path / "ensemble", [*runs, fewer_val, fewer_test], allow_missing=True))
    assert read_summary(tmp_path / "ensemble")["validation_rows"] == 50
    assert sorted(read_submission(tmp_path / "ensemble")) == sorted(TEST[0].ids)


def test_more_folds_than_rows_are_refused(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{at}", rows.take(range(4))) for at, rows in enumerate(VAL)]
    assert_refused(tmp_path / "ensemble", runs, "folds=5: .*2 to 4")
    ensemble(settings(tmp_path / "ensemble", runs, folds=4))


def test_a_method_that_is_not_compared_is_refused(tmp_path: Path, runs: list[str]) -> None:
    message = r"method=greedy: .*methods=\[mean,weights\]"
    assert_refused(tmp_path / "ensemble", runs, message, method="greedy")


def read_outputs(directory: Path) -> tuple[bytes, dict[str, np.ndarray], dict[str, Any]]:
    """Return the outputs that depend on the members and the seed."""
    submission = (directory / "submission.csv").read_bytes()
    summary = read_summary(directory)
    del summary["sha256"]  # hashes of files that contain the directory's name
    return submission, read_probabilities(directory / "predictions/val.parquet"), summary


def test_the_same_seed_gives_the_same_ensemble(tmp_path: Path, runs: list[str]) -> None:
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        ensemble(settings(tmp_path / name, runs, seed=seed, method="weights", offsets=True))
    first, again, other = (read_outputs(tmp_path / name) for name in ("first", "again", "other"))
    assert first[0] == again[0]
    np.testing.assert_equal(first[1:], again[1:])
    assert any((first[1][identity] != row).any() for identity, row in other[1].items())


def test_the_order_of_the_rows_in_the_first_member_changes_no_probability(tmp_path: Path, runs: list[str]) -> None:
    ensemble(settings(tmp_path / "first", runs, method="weights"))
    write_run(tmp_path / "run0", VAL[0].shuffle(5), TEST[0].shuffle(5))
    ensemble(settings(tmp_path / "again", runs, method="weights"))
    assert read_submission(tmp_path / "first") == read_submission(tmp_path / "again")
    for split in ("val", "test"):
        first, again = (
            read_probabilities(tmp_path / name / "predictions" / f"{split}.parquet") for name in ("first", "again")
        )
        assert list(first) != list(again)
        np.testing.assert_allclose([again[identity] for identity in first], list(first.values()), atol=1e-5)


def make_rare_rows(seed: int, first: int, count: int) -> Rows:
    """Return rows with few of the last class, by a model that predicts this class too rarely for macro F1."""
    rows = make_rows(count, seed, first=first, skill=1.0)
    chosen = [row for row, label in enumerate(rows.labels) if label != 2 or row % 8 == 0]
    tilted = rows.probabilities * np.float32([1, 1, 0.2])
    rows.probabilities[:] = tilted / tilted.sum(1, keepdims=True)
    return rows.take(chosen)


def test_class_offsets_decide_the_submission(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{at}", make_rare_rows(at, 0, 600), make_rare_rows(at, 1000, 300)) for at in range(2)]
    output = tmp_path / "ensemble"
    result: Ensemble = ensemble(settings(output, runs, offsets=True))
    offsets = read_summary(output)["class_offsets"]
    assert list(offsets) == CLASSES
    assert result.assessment.offsets is not None and np.ptp(result.assessment.offsets) > 0.1
    factors = np.exp([offsets[name] for name in CLASSES])
    test = read_probabilities(output / "predictions/test.parquet")
    votes = {identity: int((row * factors).argmax()) for identity, row in test.items()}
    assert read_submission(output) == votes
    assert votes != {identity: int(row.argmax()) for identity, row in test.items()}


def test_missing_rows_are_recorded_in_summary_and_predictions(tmp_path: Path, runs: list[str]) -> None:
    fewer = write_run(tmp_path / "fewer", VAL[0].take(range(50)), TEST[0].take(range(20)), test_skipped=10)
    ensemble(settings(tmp_path / "inner", [*runs, fewer], allow_missing=True))
    members = {Path(member["name"]).name: member for member in read_summary(tmp_path / "inner")["members"]}
    assert [members[name]["validation_rows_left_out"] for name in ("run0", "fewer")] == [10, 0]
    assert [members[name]["test_rows_missing"] for name in ("run0", "fewer")] == [0, 10]
    assert read_provenance(tmp_path / "inner/predictions/test.parquet").skipped == 10
    outer = [str(tmp_path / "inner"), write_run(tmp_path / "other", VAL[1].take(range(50)), TEST[1])]
    assert_refused(tmp_path / "outer", outer, r"\b10 .*\bskipped\b")


def test_the_blend_can_be_recomputed_from_the_summary(tmp_path: Path, runs: list[str]) -> None:
    ensemble(settings(tmp_path / "ensemble", runs, methods=["stacked"], method="stacked"))
    blend = read_summary(tmp_path / "ensemble")["blend"]
    assert blend["pool"] == "LogarithmicPool"
    logits = np.tile(blend["bias"], (30, 1))
    for rows, temperature, exponents in zip(TEST, blend["temperatures"], blend["exponents"], strict=True):
        calibrated = rows.probabilities.astype(np.float64) ** (1 / temperature)
        logits += np.array(exponents) * np.log(calibrated / calibrated.sum(1, keepdims=True))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = read_probabilities(tmp_path / "ensemble/predictions/test.parquet")
    np.testing.assert_allclose([found[identity] for identity in TEST[0].ids], expected, rtol=1e-4)


TRAIN = [make_rows(90, seed, first=2000, skill=4.0) for seed in range(3)]


def add_train(runs: list[str], rows: list[Rows]) -> None:
    for at, (run, own) in enumerate(zip(runs, rows, strict=False)):
        path = Path(run) / "predictions" / "train.parquet"
        write_file(path, own.shuffle(at), run=run, backbone="resnet18", parameters=10, weights=run)


def test_training_predictions_are_blended_like_the_others(tmp_path: Path, runs: list[str]) -> None:
    add_train(runs, TRAIN)
    output = tmp_path / "ensemble"
    result = ensemble(settings(output, runs, method="weights"))
    path = output / "predictions" / "train.parquet"
    assert path in result.files and result.without_train == []
    found = read_probabilities(path)
    assert sorted(found) == sorted(TRAIN[0].ids)
    for identity, expected in blend_by_hand(output, runs, "train"):
        np.testing.assert_allclose(found[identity], expected, atol=1e-5)
    labels = pq.read_table(path, columns=["id", "label"]).to_pydict()
    assert dict(zip(*labels.values(), strict=True)) == dict(zip(TRAIN[0].ids, TRAIN[0].labels, strict=True))
    provenance = read_provenance(path)
    assert (provenance.split, provenance.trained_on) == ("train", "train")
    assert find_members([str(output)])[0].train == [path]


def test_training_predictions_of_only_some_members_are_left_out(tmp_path: Path, runs: list[str]) -> None:
    add_train(runs, TRAIN[:2])
    result = ensemble(settings(tmp_path / "ensemble", runs))
    assert result.without_train == [runs[2]]
    assert not (tmp_path / "ensemble" / "predictions" / "train.parquet").exists()


def test_the_training_rows_of_folds_are_the_mean_of_their_models(tmp_path: Path) -> None:
    rows = make_rows(60, 0)
    others = make_rows(60, 1)
    parts = np.array_split(np.arange(60), 2)
    runs = []
    for fold, (val, train) in enumerate((parts, parts[::-1])):
        source = {"folds": 2, "fold": fold, "recipe": "same"}
        runs.append(write_run(tmp_path / f"f{fold}", rows.take(val), train=others.take(train), **source))
    runs.append(write_run(tmp_path / "whole", rows, train=make_rows(60, 2)))
    ensemble(settings(tmp_path / "ensemble", runs, method="mean"))
    path = tmp_path / "ensemble" / "predictions" / "train.parquet"
    assert sorted(read_probabilities(path)) == sorted(rows.ids)
    assert read_provenance(path).trained_on == "train+val"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": "others"}, r"train\.parquet: .*\bweights\b"),
        ({"split": "val"}, r"train\.parquet: .*\btrain split\b.*\bval\b"),
    ],
)
def test_training_predictions_of_another_model_are_refused(
    tmp_path: Path, runs: list[str], changes: dict[str, str], message: str
) -> None:
    values = {"run": runs[1], "weights": runs[1]} | changes
    write_file(Path(runs[1]) / "predictions" / "train.parquet", TRAIN[1], **values)
    assert_refused(tmp_path / "ensemble", runs, message)


def test_members_with_other_training_rows_are_refused(tmp_path: Path, runs: list[str]) -> None:
    add_train(runs, [*TRAIN[:2], TRAIN[2].take(range(80))])
    assert_refused(tmp_path / "ensemble", runs, "run2: .*90 training ids of .*run0, found 10 missing")
