"""Class offsets raise macro F1 where possible, and are zero otherwise."""

from __future__ import annotations

import numpy as np

from flowers.ensembling.offsets import fit_offsets
from flowers.ensembling.scores import macro_f1
from flowers.inference.submission import decide
from tests.helpers.simulation import World


def test_zero_offsets_decide_for_the_most_probable_class() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.ones(9), 500).astype(np.float32)
    np.testing.assert_array_equal(decide(probabilities, np.zeros(9)), probabilities.argmax(1))


def test_an_offset_is_added_to_the_log_probability() -> None:
    probabilities = np.array([[0.6, 0.3, 0.1], [0.9, 0.06, 0.04]], np.float32)
    assert decide(probabilities, np.log([1, 2.5, 1])).tolist() == [1, 0]


def test_offsets_raise_macro_f1_on_other_rows_where_rare_classes_are_hard() -> None:
    gains = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        world = World.random(rng, 20, 1)
        labels, members = world.draw(rng, 1500)
        others, unseen = world.draw(rng, 20000)
        offsets = fit_offsets(members[0], labels)
        frequent, rare = np.bincount(labels, minlength=20).argmax(), np.bincount(labels, minlength=20).argmin()
        assert offsets[rare] >= offsets[frequent]
        gains.append(macro_f1(others, decide(unseen[0], offsets), 20) - macro_f1(others, unseen[0].argmax(1), 20))
    assert np.mean(gains) > 0
    assert min(gains) > -0.01


def test_offsets_are_zero_where_the_most_probable_class_is_right() -> None:
    labels = np.arange(60) % 6
    probabilities = 0.1 + 0.4 * np.eye(6, dtype=np.float32)[labels]
    np.testing.assert_array_equal(fit_offsets(probabilities, labels), np.zeros(6))
