"""Where the truth is known, the figures that are reported tell it."""

from __future__ import annotations

import numpy as np
import pytest

from flowers.config import Method
from flowers.data.folds import fold_of
from flowers.ensembling.assessment import Assessment, assess
from flowers.ensembling.methods import METHODS
from flowers.ensembling.offsets import decide
from flowers.ensembling.scores import Labels, Probabilities, log_probabilities, macro_f1
from flowers.ensembling.validation import Rows
from tests.ensembling.simulation import World

CLASSES = 12
ALL: list[Method] = list(METHODS)


def assessed(
    labels: Labels, members: Probabilities, *, offsets: bool = False, method: Method | None = None
) -> Assessment:
    folds = fold_of([str(row) for row in range(len(labels))], labels, folds=5, seed=0)
    rows = Rows(log_probabilities(members), labels, folds)
    return assess(rows, ALL, method or "auto", offsets=offsets, resamples=400, seed=0)


def true_score(assessment: Assessment, labels: Labels, members: Probabilities) -> float:
    """The ensemble's macro F1 on rows that it has never seen, as many as make it the truth."""
    offsets = np.zeros(CLASSES) if assessment.offsets is None else assessment.offsets
    return macro_f1(labels, decide(assessment.blend(log_probabilities(members)), offsets), CLASSES)


def test_the_interval_holds_the_true_score_and_auto_is_no_worse_than_the_best_member() -> None:
    """120 worlds of three members, 500 validation rows each; every other world with class offsets."""
    held, gain_held, optimism = [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        world = World.random(rng, CLASSES, 3)
        found = assessed(*world.draw(rng, 500), offsets=bool(seed % 2))
        labels, members = world.draw(rng, 15_000)
        truth = true_score(found, labels, members)
        alone = [macro_f1(labels, member.argmax(1), CLASSES) for member in members]
        score, gain = found.ensemble.validated, found.ensemble.gain
        held.append(score.low <= truth <= score.high)
        gain_held.append(gain.low <= truth - alone[found.best] <= gain.high)
        optimism.append((found.ensemble.fitted.value - truth, score.value - truth))
        assert truth >= max(alone) - min(0.01, score.high - score.low)
    assert 0.90 <= np.mean(held) <= 0.99
    assert 0.90 <= np.mean(gain_held) <= 0.99
    fitted, validated = np.mean(optimism, axis=0)
    assert abs(validated) < 0.005  # the score to believe; the other flatters
    assert fitted > validated


def test_a_blend_of_members_with_errors_of_their_own_gains() -> None:
    rng = np.random.default_rng(0)
    found = assessed(*World.random(rng, CLASSES, 4).draw(rng, 2000))
    assert found.ensemble.gain.low > 0
    assert found.ensemble.gain.value == pytest.approx(
        found.ensemble.validated.value - found.members[found.best].macro_f1.value, abs=1e-6
    )


@pytest.mark.parametrize("method", ["weights", "greedy", "stacked"])
def test_a_copy_adds_nothing_and_a_member_of_its_own_kind_does(method: Method) -> None:
    rng = np.random.default_rng(1)
    labels, members = World.random(rng, CLASSES, 2).draw(rng, 3000)
    found = assessed(labels, np.concatenate([members, members[:1]]), method=method)
    first, own, copy = (figures.adds or 0.0 for figures in found.members)
    assert first == pytest.approx(0, abs=0.005)
    assert copy == pytest.approx(0, abs=0.005)
    assert own > 0.02
    truths = members[:, np.arange(len(labels)), labels]
    np.testing.assert_allclose(found.correlations[0], [1, np.corrcoef(truths)[0, 1], 1], rtol=1e-4)


def test_a_single_member_is_all_there_is() -> None:
    rng = np.random.default_rng(1)
    single = assessed(*World.random(rng, CLASSES, 1).draw(rng, 300))
    assert single.members[0].adds is None
    assert single.members[0].weight == 1


def test_a_member_that_guesses_is_weighted_down_and_adds_nothing() -> None:
    rng = np.random.default_rng(2)
    labels, members = World.random(rng, CLASSES, 2).draw(rng, 2000)
    guess = rng.dirichlet(np.ones(CLASSES), 2000).astype(np.float32)
    found = assessed(labels, np.concatenate([members, guess[None]]), method="weights")
    assert found.members[2].weight < 0.01
    assert found.members[2].adds == pytest.approx(0, abs=0.003)
    assert found.best != 2
