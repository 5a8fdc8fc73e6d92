"""Compute training targets and losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def smooth_targets(labels: Tensor, class_count: int, smoothing: float) -> Tensor:
    """Return smoothed targets float32 `[B, K]` for labels int64 `[B]`.

    The label gets `1 - smoothing`, and the rest is spread over all classes (Szegedy et al. 2016, arXiv:1512.00567). A
    label outside 0..K-1, as an invalid row may have, matches no class.
    """
    classes = torch.arange(class_count, device=labels.device)
    hot = (labels[:, None] == classes).to(torch.float32)
    return hot * (1 - smoothing) + smoothing / class_count


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return each row's cross-entropy, float32 `[B]`: logits `[B, K]` of any float type, targets float32 `[B, K]`."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(dim=1)


class LabelLoss(nn.Module):
    """Converts labels to targets, and computes the cross-entropy loss.

    Args:
        class_count: `K`.
        label_smoothing: the fraction of a target that is spread over all classes.
        class_weight_power: the exponent of the class weights. A class of `n` images has the weight `n ** -power`,
            scaled so that the mean over the training images is 1. 0: equal weights.
        logit_adjustment: the factor on the logarithm of a class's frequency, which is added to its logit in training,
            so that rare classes are not predicted too seldom (Menon et al. 2021, arXiv:2007.07314). 0: none.
    """

    def __init__(
        self,
        class_count: int,
        label_smoothing: float = 0.0,
        class_weight_power: float = 0.0,
        logit_adjustment: float = 0.0,
    ) -> None:
        super().__init__()
        self.class_count = class_count
        self.label_smoothing = label_smoothing
        self.class_weight_power = class_weight_power
        self.logit_adjustment = logit_adjustment
        self.class_weights: Tensor
        self.log_prior: Tensor
        self.register_buffer("class_weights", torch.ones(class_count), persistent=False)
        self.register_buffer("log_prior", torch.zeros(class_count), persistent=False)

    @property
    def needs_class_sizes(self) -> bool:
        """Return whether the loss depends on the number of images of each class."""
        return self.class_weight_power > 0 or self.logit_adjustment > 0

    def set_class_sizes(self, sizes: Sequence[int]) -> None:
        """Set the number of training images of each class, in label order."""
        counts = torch.tensor(sizes, dtype=torch.float64).clamp(min=1)  # a class without images is never a target
        self.class_weights.copy_(class_weights(counts, self.class_weight_power))
        self.log_prior.copy_((counts / counts.sum()).log())

    def targets(self, labels: Tensor) -> Tensor:
        """Return smoothed targets float32 `[B, K]` of labels int64 `[B]`."""
        return smooth_targets(labels, self.class_count, self.label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each row, float32 `[B]`: logits `[B, K]` of any float type, targets float32 `[B, K]`."""
        if self.logit_adjustment > 0:
            logits = logits.float() + self.logit_adjustment * self.log_prior
        if self.class_weight_power > 0:
            targets = targets * self.class_weights
        return cross_entropy(logits, targets)


def class_weights(sizes: Tensor, power: float) -> Tensor:
    """Return the weight of each class, float32 `[K]`, from its number of images, float64 `[K]`."""
    weights = sizes**-power
    return (weights * sizes.sum() / (weights * sizes).sum()).float()


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """Return the mean of values float `[B]` over valid rows, bool `[B]`: a scalar, 0 if no row is valid."""
    weights = valid.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def has_loss(outputs: Any) -> bool:
    """Return whether a training step returned a loss. Models may return none."""
    return isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor)


def loss_on_host(outputs: dict[str, Any]) -> Tensor:
    """Return the loss of a training step as a scalar on the CPU. It is read from the device only once."""
    if "loss_on_host" not in outputs:
        outputs["loss_on_host"] = outputs["loss"].detach().cpu()
    loss: Tensor = outputs["loss_on_host"]
    return loss
