"""Targets and losses match torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flowers.models.losses import LabelLoss, class_weights, cross_entropy, masked_mean, smooth_targets


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_targets_match_torchs_label_smoothing(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 5, generator=generator)
    labels = torch.randint(0, 5, (8,), generator=generator)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    torch.testing.assert_close(cross_entropy(logits, smooth_targets(labels, 5, smoothing)), expected)


def test_targets_sum_to_one() -> None:
    torch.testing.assert_close(smooth_targets(torch.arange(4), 4, 0.3).sum(1), torch.ones(4))


def test_invalid_rows_are_left_out_of_the_mean() -> None:
    values, valid = torch.tensor([1.0, 100.0, 3.0]), torch.tensor([True, False, True])
    assert float(masked_mean(values, valid)) == 2
    assert float(masked_mean(values, torch.zeros(3, dtype=torch.bool))) == 0


def test_class_weights_equal_torchs_weighted_loss() -> None:
    sizes = [10, 40, 90]
    loss = LabelLoss(3, class_weight_power=0.5)
    loss.set_class_sizes(sizes)
    logits, labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3
    expected = F.cross_entropy(logits, labels, weight=loss.class_weights, reduction="none")
    torch.testing.assert_close(loss(logits, loss.targets(labels)), expected)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_class_weights_are_one_on_average_over_the_images(power: float) -> None:
    sizes = torch.tensor([10.0, 40.0, 90.0], dtype=torch.float64)
    weights = class_weights(sizes, power)
    assert float((weights * sizes).sum() / sizes.sum()) == pytest.approx(1)
    assert float(weights[0] / weights[2]) == pytest.approx(9**power)


def test_logit_adjustment_adds_the_log_of_the_frequencies() -> None:
    loss = LabelLoss(2, logit_adjustment=2.0)
    loss.set_class_sizes([1, 3])
    losses = loss(torch.zeros(2, 2), loss.targets(torch.tensor([0, 1])))
    # Softmax of 2 log(1/4) and 2 log(3/4): odds of 1 to 9.
    torch.testing.assert_close(losses, -torch.tensor([0.1, 0.9]).log())


def test_without_class_settings_the_loss_is_the_cross_entropy_bit_for_bit() -> None:
    loss = LabelLoss(3, label_smoothing=0.1)
    loss.set_class_sizes([1, 2, 3])
    logits, targets = torch.randn(4, 3), loss.targets(torch.tensor([0, 1, 2, 0]))
    assert torch.equal(loss(logits, targets), cross_entropy(logits, targets))
