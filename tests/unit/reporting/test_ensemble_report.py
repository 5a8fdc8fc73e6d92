"""The report of an ensemble has no images if the runs of its members are missing."""

from __future__ import annotations

import pytest
from sklearn.metrics import f1_score

from flowers.ensembling.ensemble import Ensemble, ensemble
from flowers.reporting.ensemble_report import make_ensemble_report, photographs_of_members
from flowers.reporting.report import Report, render
from flowers.training.predictions import read_outcomes
from tests.helpers.ensembles import settings
from tests.helpers.members import make_rows, write_run

SIZES = (192, 224, 224)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    directory = tmp_path_factory.mktemp("ensemble")
    rows = [(make_rows(60, seed, skill=1), make_rows(30, seed, first=1000)) for seed in range(3)]
    runs = [
        write_run(directory / f"run{at}", val, test, image_size=size, backbone="resnet18")
        for at, ((val, test), size) in enumerate(zip(rows, SIZES, strict=True))
    ]
    return ensemble(settings(directory / "out", runs, methods=["mean", "weights"]))


@pytest.fixture(scope="module")
def report(result: Ensemble) -> Report:
    return make_ensemble_report(result, "python src/ensemble.py")


def test_the_reported_score_is_that_of_the_predictions(result: Ensemble, report: Report) -> None:
    outcomes = read_outcomes(result.directory / "predictions" / "val.parquet", result.class_names)
    score = f1_score(outcomes.labels, outcomes.probabilities.argmax(1), average="macro")
    assert report.headlines[0].value == f"{score:.3f}"


def test_members_methods_and_resolutions_are_compared(report: Report) -> None:
    members, methods = report.tables
    assert [len(row) for row in members.rows] == [len(members.columns)] * len(SIZES)
    assert [row[0].split(":")[0] for row in methods.rows] == ["mean", "weights", "ensemble"]
    assert len(report.comparisons) == 3  # scores, resolutions, correlations
    page = render(report)
    assert all(row[0] in page for row in members.rows)


def test_without_the_members_runs_there_are_no_images(result: Ensemble, report: Report) -> None:
    outcomes = read_outcomes(result.directory / "predictions" / "val.parquet", result.class_names)
    assert not photographs_of_members(result.members, outcomes)
    assert report.mistakes and not any(mistake.images for mistake in report.mistakes)
