"""Metrics match scikit-learn's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from flowers.models.metrics import SplitMetrics

rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=60)


@given(rows=rows, batch=st.integers(1, 20))
def test_metrics_match_scikit_learn_for_any_batches_and_padding(rows: list[tuple[int, int, bool]], batch: int) -> None:
    metrics = SplitMetrics(7)
    label, predicted = (torch.tensor([row[column] for row in rows]) for column in (0, 1))
    valid = torch.tensor([row[2] for row in rows])
    losses = torch.arange(len(rows), dtype=torch.float32)
    for start in range(0, len(rows), batch):
        part = slice(start, start + batch)
        marked = torch.where(valid[part], label[part], -1)  # as padding is labelled
        metrics.update(losses[part], predicted[part], marked, valid[part])
    results = metrics.compute()
    if not valid.any():
        assert float(results["macro_f1"]) == float(results["accuracy"]) == 0
        return
    truth, guess = label[valid].numpy(), predicted[valid].numpy()
    assert float(results["accuracy"]) == pytest.approx(accuracy_score(truth, guess))
    assert float(results["macro_f1"]) == pytest.approx(f1_score(truth, guess, average="macro"), abs=1e-6)
    assert float(results["loss"]) == pytest.approx(float(losses[valid].mean()), rel=1e-5)


def test_counts_are_exact_beyond_float_precision() -> None:
    metrics = SplitMetrics(2)
    metrics.confusion += torch.tensor([[2**24, 0], [0, 0]])
    metrics.update(torch.zeros(1), torch.tensor([0]), torch.tensor([0]), torch.tensor([True]))
    assert int(metrics.confusion[0, 0]) == 2**24 + 1


def test_reset_clears_all_counts() -> None:
    metrics = SplitMetrics(3)
    metrics.update(torch.ones(2), torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([True, True]))
    metrics.reset()
    assert not metrics.confusion.any()
    assert float(metrics.loss_sum) == 0
