"""The reported metrics agree with a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from flowers.ensembling.methods import Method
from tests.helpers.simulation import World, assess_members

CLASSES = 12


def test_a_blend_of_members_with_independent_errors_gains() -> None:
    rng = np.random.default_rng(0)
    found = assess_members(*World.random(rng, CLASSES, 4).draw(rng, 2000))
    assert found.ensemble.gain.low > 0
    assert found.ensemble.gain.value == pytest.approx(
        found.ensemble.validated.value - found.members[found.best].macro_f1.value, abs=1e-6
    )


@pytest.mark.parametrize("method", ["weights", "greedy", "stacked"])
def test_a_copy_has_no_leave_one_out_gain_and_a_different_member_has(method: Method) -> None:
    rng = np.random.default_rng(1)
    labels, members = World.random(rng, CLASSES, 2).draw(rng, 3000)
    found = assess_members(labels, np.concatenate([members, members[:1]]), method=method)
    first, own, copy = (member.adds or 0.0 for member in found.members)
    assert first == pytest.approx(0, abs=0.005)
    assert copy == pytest.approx(0, abs=0.005)
    assert own > 0.02
    truths = members[:, np.arange(len(labels)), labels]
    np.testing.assert_allclose(found.correlations[0], [1, np.corrcoef(truths)[0, 1], 1], rtol=1e-4)


def test_a_single_member_has_weight_one_and_no_leave_one_out_gain() -> None:
    rng = np.random.default_rng(1)
    single = assess_members(*World.random(rng, CLASSES, 1).draw(rng, 300))
    assert single.members[0].adds is None
    assert single.members[0].weight == 1


def test_a_guessing_member_gets_little_weight_and_has_no_gain() -> None:
    rng = np.random.default_rng(2)
    labels, members = World.random(rng, CLASSES, 2).draw(rng, 2000)
    guess = rng.dirichlet(np.ones(CLASSES), 2000).astype(np.float32)
    found = assess_members(labels, np.concatenate([members, guess[None]]), method="weights")
    assert found.members[2].weight < 0.01
    assert found.members[2].adds == pytest.approx(0, abs=0.003)
    assert found.best != 2
