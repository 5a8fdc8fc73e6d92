"""Targets and loss against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flowers.models.losses import cross_entropy, masked_mean, smooth_targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_equals_torchs_label_smoothing(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator)
    labels = torch.randint(0, 5, (8,), generator=generator)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, smooth_targets(labels, 5, smoothing)), expected)


def test_targets_sum_to_one() -> None:
    torch.testing.assert_close(smooth_targets(torch.arange(4), 4, 0.3).sum(1), torch.ones(4))


def test_rows_that_are_not_valid_count_nothing() -> None:
    values, valid = torch.tensor([1.0, 100.0, 3.0]), torch.tensor([True, False, True])
    assert float(masked_mean(values, valid)) == 2
    assert float(masked_mean(values, torch.zeros(3, dtype=torch.bool))) == 0
