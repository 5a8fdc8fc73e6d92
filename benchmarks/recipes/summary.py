"""Compare recipes by their results: means over seeds, and paired differences with intervals."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.recipes.result import EpochScore, Predictions, Result, read_predictions, read_result
from flowers.ensembling.scores import CONFIDENCE, Estimate, bootstrap_macro_f1
from flowers.errors import InputError

RESAMPLES = 4000
"""Bootstrap resamples for the intervals of differences."""

Runs = Mapping[int, tuple[Result, Predictions]]
"""The results of a recipe by seed."""


@dataclass(frozen=True, slots=True)
class Row:
    """A recipe's mean over its seeds, and its difference to the reference over the seeds that both have.

    macro_f1: macro F1 after the last epoch.
    spread: the standard deviation of macro F1 over seeds; None with one seed.
    seconds: the time of the whole process.
    gain: the difference of macro F1 to the reference; None for the reference itself, or without common seeds.
    seconds_ratio: the time divided by that of the reference, over the common seeds.
    seconds_to_reference: the time after which macro F1 reached the reference's last score; None: it never did.
    by_epoch: the means over seeds, by epoch.
    """

    name: str
    seeds: list[int]
    macro_f1: float
    spread: float | None
    seconds: float
    gain: Estimate | None
    seconds_ratio: float | None
    seconds_to_reference: float | None
    by_epoch: list[EpochScore]


@dataclass(frozen=True, slots=True)
class Summary:
    """The results of all recipes on one data set, at one resolution, for some epochs; the best is first in `rows`."""

    title: str
    image_count: int
    reference: str
    rows: list[Row]


def read_summaries(
    results: Path, reference: str, groups: Collection[str] | None, names: Collection[str] | None
) -> Iterator[tuple[Path, Summary]]:
    """Summarise the subdirectories of results, and yield each with its summary. For arguments see `print_summaries`.

    Raises:
        InputError: a result is damaged, or results were measured on different images.
    """
    for directory in sorted(results.iterdir()) if results.is_dir() else ():
        if not directory.is_dir() or (groups is not None and directory.name not in groups):
            continue
        runs = _read_runs(directory, None if names is None else {*names, reference})
        if runs:
            yield directory, summarise(runs, reference)


def _read_runs(directory: Path, names: Collection[str] | None) -> dict[str, dict[int, tuple[Result, Predictions]]]:
    runs: dict[str, dict[int, tuple[Result, Predictions]]] = defaultdict(dict)
    for path in sorted(directory.glob("*.json")):
        result = read_result(path)
        if names is None or result.name in names:
            runs[result.name][result.seed] = (result, _in_order(read_predictions(path)))
    everything = [(result, predictions) for own in runs.values() for result, predictions in own.values()]
    for result, predictions in everything:
        first = everything[0][1]
        if predictions.ids != first.ids or not np.array_equal(predictions.labels, first.labels):
            raise InputError(
                f"{directory}: expected results on the same validation images, found other ids or labels for "
                f"{result.name}, seed {result.seed}. Run it again with force=true, or set another results."
            )
    return dict(runs)


def _in_order(predictions: Predictions) -> Predictions:
    order = np.argsort(np.array(predictions.ids), kind="stable")
    ids = [predictions.ids[place] for place in order]
    return Predictions(ids, predictions.labels[order], predictions.probabilities[order])


def summarise(runs: Mapping[str, Runs], reference: str) -> Summary:
    """Summarise the results of one directory by recipe. All of them predict the same images in the same order."""
    rows = [_make_row(name, own, runs.get(reference, {}), name == reference) for name, own in runs.items()]
    rows.sort(key=lambda row: -row.macro_f1)
    result, predictions = next(iter(next(iter(runs.values())).values()))
    epochs = f"{result.epochs} epoch{'s' if result.epochs > 1 else ''}"
    title = f"{result.set_name}, {result.image_size} px, {epochs}"
    return Summary(title, len(predictions.ids), reference, rows)


def _make_row(name: str, runs: Runs, reference: Runs, is_reference: bool) -> Row:
    scores = [result.macro_f1 for result, _ in runs.values()]
    common = [seed for seed in runs if seed in reference]
    gain, ratio = None, None
    if common and not is_reference:
        labels = runs[common[0]][1].labels
        ours, theirs = ([one[seed][1].predicted for seed in common] for one in (runs, reference))
        gain = paired_gain(labels, ours, theirs, runs[common[0]][1].probabilities.shape[1])
        seconds = [sum(one[seed][0].wall_seconds for seed in common) for one in (runs, reference)]
        ratio = seconds[0] / seconds[1]
    by_epoch = mean_by_epoch([result.by_epoch for result, _ in runs.values()])
    target = statistics.mean(result.macro_f1 for result, _ in reference.values()) if reference else None
    return Row(
        name=name,
        seeds=sorted(runs),
        macro_f1=statistics.mean(scores),
        spread=statistics.stdev(scores) if len(scores) > 1 else None,
        seconds=statistics.mean(result.wall_seconds for result, _ in runs.values()),
        gain=gain,
        seconds_ratio=ratio,
        seconds_to_reference=None if target is None else seconds_until(by_epoch, target),
        by_epoch=by_epoch,
    )


def mean_by_epoch(runs: Sequence[Sequence[EpochScore]]) -> list[EpochScore]:
    """Return the means over runs of each epoch's seconds and scores. Only the last score of an epoch counts."""
    by_epoch: dict[int, list[EpochScore]] = defaultdict(list)
    for run in runs:
        for epoch, score in {score.epoch: score for score in run}.items():
            by_epoch[epoch].append(score)
    return [
        EpochScore(
            epoch,
            statistics.mean(score.seconds for score in scores),
            statistics.mean(score.macro_f1 for score in scores),
            statistics.mean(score.accuracy for score in scores),
        )
        for epoch, scores in sorted(by_epoch.items())
    ]


def seconds_until(by_epoch: Sequence[EpochScore], macro_f1: float) -> float | None:
    """Return the time of the first epoch with at least this macro F1; None if there is none."""
    return next((score.seconds for score in by_epoch if score.macro_f1 >= macro_f1 - 1e-9), None)


def paired_gain(
    labels: NDArray[np.int64],
    predicted: Sequence[NDArray[np.int64]],
    reference: Sequence[NDArray[np.int64]],
    class_count: int,
) -> Estimate:
    """Estimate how much mean macro F1 over seeds exceeds the reference's, with its 95 % interval.

    The bootstrap resamples images, the same for all seeds and both recipes, and then seeds, the same for both recipes.
    Resampling `S` seeds reduces the variance over seeds by a factor of (S - 1) / S, which is corrected.

    Args:
        labels: the true labels, int64 `[N]`.
        predicted: the recipe's predicted labels for each seed, int64 `[N]`.
        reference: the reference's predicted labels for the same seeds, int64 `[N]`.
        class_count: the number of classes.
    """
    seeds = len(predicted)
    scores = bootstrap_macro_f1(labels, [*predicted, *reference], class_count, RESAMPLES, seed=0)
    gains = scores[:seeds] - scores[seeds:]  # [S, 2 + R]: on the images, smoothed, resampled
    value, centre, resampled = gains[:, 0].mean(), gains[:, 1].mean(), gains[:, 2:]
    drawn = np.random.default_rng(0).integers(0, seeds, (seeds, RESAMPLES))
    over_seeds = np.take_along_axis(resampled, drawn, axis=0).mean(0) - resampled.mean(0)
    moved = resampled.mean(0) + over_seeds * np.sqrt(seeds / max(seeds - 1, 1))
    tail = (1 - CONFIDENCE) / 2
    low, high = value - centre + np.quantile(moved, [tail, 1 - tail]) - 2 * (moved.mean() - centre)
    return Estimate(float(value), float(min(low, value)), float(max(high, value)))
