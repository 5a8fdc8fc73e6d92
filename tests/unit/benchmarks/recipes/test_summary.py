"""Means over seeds and paired differences agree with closed forms and simulations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import f1_score

from benchmarks.recipes.plot import plot_scores
from benchmarks.recipes.report import make_table
from benchmarks.recipes.result import EpochScore
from benchmarks.recipes.summary import mean_by_epoch, paired_gain, read_summaries, seconds_until
from flowers.errors import InputError
from tests.unit.benchmarks.recipes.helpers import make_predictions, make_task, write

LABELS = np.arange(120) % 4


def wrong_at(*rows: int) -> NDArray[np.int64]:
    """Return predictions that are wrong at these rows only."""
    predicted = LABELS.copy()
    predicted[list(rows)] = (predicted[list(rows)] + 1) % 4
    return predicted


def test_the_gain_is_the_mean_difference_over_seeds() -> None:
    ours, theirs = [wrong_at(1), wrong_at(2, 3)], [wrong_at(*range(9)), wrong_at(*range(12))]
    differences = [
        f1_score(LABELS, one, average="macro") - f1_score(LABELS, other, average="macro")
        for one, other in zip(ours, theirs, strict=True)
    ]
    gain = paired_gain(LABELS, ours, theirs, 4)
    assert gain.value == pytest.approx(np.mean(differences), abs=1e-6)
    assert 0 < gain.low < gain.value < gain.high
    back = paired_gain(LABELS, theirs, ours, 4)
    assert back.value == pytest.approx(-gain.value)
    assert back.high < 0


def test_equal_predictions_have_no_gain() -> None:
    same = [wrong_at(1, 2, 3), wrong_at(4, 5)]
    gain = paired_gain(LABELS, same, same, 4)
    assert gain.value == 0
    assert gain.low <= 0 <= gain.high


def test_the_interval_covers_the_truth_as_often_as_it_claims() -> None:
    # Two equal recipes: each seed has its own errors, and some images are hard for all seeds.
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        hard = rng.choice([0.02, 0.5], len(LABELS), p=[0.9, 0.1])
        runs = []
        for _ in range(6):
            rate = rng.uniform(0.5, 1.5)  # seeds differ by more than their images
            errors = np.flatnonzero(rng.random(len(LABELS)) < np.minimum(hard * rate, 1))
            runs.append(wrong_at(*errors))
        gain = paired_gain(LABELS, runs[:3], runs[3:], 4)
        held += gain.low <= 0 <= gain.high
    assert held >= 52  # of 60: with 95 %, fewer occur once in 150 times


def test_curves_are_means_over_seeds() -> None:
    one = [EpochScore(1, 10, 0.5, 0.6), EpochScore(2, 20, 0.8, 0.9)]
    other = [EpochScore(1, 30, 0.6, 0.6), EpochScore(2, 50, 0.7, 0.7), EpochScore(2, 60, 0.9, 0.9)]
    first, second = mean_by_epoch([one, other])
    assert (first.epoch, first.seconds, first.macro_f1) == (1, 20, pytest.approx(0.55))
    assert (second.epoch, second.seconds, second.macro_f1) == (2, 40, pytest.approx(0.85))
    assert seconds_until([first, second], 0.55) == 20
    assert seconds_until([first, second], 0.6) == 40
    assert seconds_until([first, second], 0.9) is None


def test_a_summary_compares_recipes_with_the_reference(tmp_path: Path) -> None:
    for seed in (1, 2):
        weak = [make_predictions(LABELS, wrong_at(*range(seed, 40)), 4) for _ in range(2)]
        strong = [make_predictions(LABELS, one, 4) for one in (wrong_at(*range(seed, 30)), wrong_at(seed))]
        write(tmp_path, make_task("plain_loop", seed), *weak, seconds=10)
        write(tmp_path, make_task("better", seed), *strong, seconds=5)
    write(tmp_path, make_task("same", 1), *(make_predictions(LABELS, wrong_at(*range(1, 40)), 4) for _ in range(2)))
    ((directory, summary),) = read_summaries(tmp_path, "plain_loop", None, None)
    better, *others = summary.rows
    reference, same = sorted(others, key=lambda row: row.name)
    assert (better.name, better.seeds, same.seeds) == ("better", [1, 2], [1])
    assert better.gain is not None and better.gain.low > 0
    assert (better.seconds, better.seconds_ratio, better.seconds_to_reference) == (15, 0.5, 5)
    assert reference.gain is None
    assert same.gain is not None and same.gain.value == 0 and same.spread is None
    cells = dict(zip(make_table(summary).columns[0].cells, make_table(summary).columns[5].cells, strict=True))
    assert cells == {"better": "better", "plain_loop": "", "same": "no difference seen"}
    for path in plot_scores(summary, directory):
        assert path.stat().st_size > 1000
    assert not list(directory.glob("*.part"))


def test_summaries_can_be_limited_to_names_and_groups(tmp_path: Path) -> None:
    for name in ("plain_loop", "one", "other"):
        write(tmp_path, make_task(name), make_predictions(LABELS, LABELS, 4))
    assert not list(read_summaries(tmp_path, "plain_loop", {"elsewhere"}, None))
    assert not list(read_summaries(tmp_path / "nowhere", "plain_loop", None, None))
    ((_, summary),) = read_summaries(tmp_path, "plain_loop", None, {"one"})
    assert {row.name for row in summary.rows} == {"one", "plain_loop"}
    ((_, without),) = read_summaries(tmp_path, "unknown", None, None)
    assert all(row.gain is None and row.seconds_to_reference is None for row in without.rows)


def test_images_in_another_order_are_aligned(tmp_path: Path) -> None:
    predictions = make_predictions(LABELS, wrong_at(0, 1), 4)
    back = slice(None, None, -1)
    reordered = type(predictions)(predictions.ids[back], predictions.labels[back], predictions.probabilities[back])
    write(tmp_path, make_task("plain_loop"), predictions)
    write(tmp_path, make_task("reordered"), reordered)
    ((_, summary),) = read_summaries(tmp_path, "plain_loop", None, None)
    gain = next(row.gain for row in summary.rows if row.name == "reordered")
    assert gain is not None and gain.value == 0


def test_other_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path, make_task("plain_loop"), make_predictions(LABELS, LABELS, 4))
    write(tmp_path, make_task("other"), make_predictions(LABELS[:-1], LABELS[:-1], 4))
    with pytest.raises(InputError, match=str(tmp_path)):
        list(read_summaries(tmp_path, "plain_loop", None, None))
