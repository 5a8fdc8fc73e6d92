"""Measure the numbers of docs/ensembling.md: python -m benchmarks.ensembling intervals, offsets or worlds.

`members DIR COUNT VAL TEST` writes COUNT members with VAL and TEST rows each, for src/ensemble.py to blend.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from flowers.ensembling.offsets import decide, fit_offsets
from flowers.ensembling.scores import Labels, Probabilities, estimate_macro_f1, macro_f1
from flowers.training.predictions import PredictionsWriter, Provenance
from tests.helpers.simulation import World, confusion_rows, judged_worlds

SETTINGS = [(12, 120, 0.95), (12, 120, 0.99), (12, 240, 0.995), (10, 300, 0.85), (20, 600, 0.9)]
SETTINGS += [(104, 800, 0.9), (104, 3712, 0.94), (104, 800, 0.98), (104, 800, 0.995)]
"""The numbers of classes and rows, and the accuracy, for which intervals are measured."""


def measure_intervals() -> None:
    """Print how often the interval, and the plain percentiles of the bootstrap, contain the true score."""
    for classes, rows, accuracy in SETTINGS:
        rng = np.random.default_rng(classes + rows)
        held = []
        for _ in range(200):
            labels, predicted, truth = confusion_rows(rng, classes, rows, accuracy)
            estimate = estimate_macro_f1(labels, predicted, classes, resamples=1000, seed=0)
            resamples = rng.integers(0, rows, (400, rows))
            low, high = np.quantile([macro_f1(labels[r], predicted[r], classes) for r in resamples], [0.025, 0.975])
            held.append((estimate.low <= truth <= estimate.high, low <= truth <= high))
        ours, plain = np.mean(held, axis=0)
        print(f"{classes} classes, {rows} rows, {accuracy}: {ours:.3f}, plain percentiles {plain:.3f}", flush=True)


def measure_offsets() -> None:
    """Print the change of macro F1 on unseen rows by offsets by frequency, and by free offsets for each class."""
    for classes, rows in ((12, 120), (20, 600), (104, 800), (104, 3712)):
        changes = []
        for seed in range(6):
            rng = np.random.default_rng(seed)
            world = World.random(rng, classes, 1)
            (labels, members), (others, unseen) = world.draw(rng, rows), world.draw(rng, 20_000)
            before = macro_f1(others, unseen[0].argmax(1), classes)
            for offsets in (fit_offsets(members[0], labels), _free_offsets(members[0], labels)):
                changes.append(macro_f1(others, decide(unseen[0], offsets), classes) - before)
        tau, free = np.mean(np.reshape(changes, (-1, 2)), axis=0)
        print(f"{classes} classes, {rows} rows: by frequency {tau:+.4f}, free {free:+.4f}", flush=True)


def _free_offsets(probabilities: Probabilities, labels: Labels) -> np.ndarray:
    """Fit an offset for each class by coordinate ascent on macro F1, in three passes over the classes."""
    offsets = np.zeros(probabilities.shape[1])

    def score(label: int, offset: float) -> tuple[float, float]:
        tried = offsets.copy()
        tried[label] = offset
        return macro_f1(labels, decide(probabilities, tried), len(offsets)), -abs(offset)

    for label in [*range(len(offsets))] * 3:
        offsets[label] = max(np.linspace(-2, 2, 17), key=lambda offset: score(label, offset))
    return offsets


def measure_worlds() -> None:
    """Print the scores of blends in simulated worlds, those of tests/slow/test_ensembling.py."""
    worlds = list(judged_worlds(120))
    print("interval holds the true score", np.mean([world.held for world in worlds]))
    print("interval of the gain holds the true gain", np.mean([world.gain_held for world in worlds]))
    print("auto over the best member: mean", np.mean([world.margin for world in worlds]))
    print("auto over the best member: least", np.min([world.margin for world in worlds]))
    print("fitted score less the truth", np.mean([world.fitted_error for world in worlds]))
    print("cross-validated score less the truth", np.mean([world.validated_error for world in worlds]))


def write_members(directory: Path, count: int, rows: dict[str, int]) -> None:
    """Write members with 104 classes whose logits are independent noise, plus five for the true class.

    Args:
        directory: the directory for the members.
        count: the number of members.
        rows: the number of rows of each split.
    """
    names = [f"class {label}" for label in range(104)]
    for member in range(count):
        rng = np.random.default_rng(member)
        noise = rng.uniform(1.2, 2.4)
        for split, total in rows.items():
            labels = np.random.default_rng(len(split)).integers(0, 104, total)
            with PredictionsWriter(directory / str(member) / "predictions" / f"{split}.parquet", names) as writer:
                for start in range(0, total, 8192):
                    known = labels[start : start + 8192]
                    logits = rng.normal(size=(len(known), 104)) * noise
                    logits[np.arange(len(known)), known] += 5
                    exp = np.exp(logits - logits.max(1, keepdims=True))
                    ids = [f"{split}{row:09x}" for row in range(start, start + len(known))]
                    written = known.tolist() if split == "val" else [None] * len(known)
                    writer.write(ids, written, (exp / exp.sum(1, keepdims=True)).astype(np.float32))
                run = str(directory / str(member))
                writer.finish(Provenance(run, split, 192, "none", names, trained_on="train"))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["intervals"]:
            measure_intervals()
        case ["offsets"]:
            measure_offsets()
        case ["worlds"]:
            measure_worlds()
        case ["members", directory, count, val, test]:
            write_members(Path(directory), int(count), {"val": int(val), "test": int(test)})
        case _:
            sys.exit(__doc__)
