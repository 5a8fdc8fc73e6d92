"""Targets and the loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def smooth_targets(labels: Tensor, class_count: int, smoothing: float) -> Tensor:
    """Labels int64 `[B]` as probabilities float32 `[B, K]`: `1 - smoothing` for the label, the rest spread over all.

    Szegedy et al. 2016, arXiv:1512.00567. A label outside 0..K-1 (of a row that is not valid) gives no class any.
    """
    classes = torch.arange(class_count, device=labels.device)
    hot = (labels[:, None] == classes).to(torch.float32)
    return hot * (1 - smoothing) + smoothing / class_count


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross-entropy of each row, float32 `[B]`: logits `[B, K]` of any float type, targets float32 `[B, K]`."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(dim=1)


def masked_mean(values: Tensor, valid: Tensor) -> Tensor:
    """The mean of the valid values, a scalar; 0 where none is valid."""
    weights = valid.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)


def has_loss(outputs: Any) -> bool:
    """Tell whether a training step returned a loss, which a model may leave out."""
    return isinstance(outputs, dict) and isinstance(outputs.get("loss"), Tensor)


def loss_on_host(outputs: dict[str, Any]) -> Tensor:
    """Return the loss of a training step on the CPU, reading it from the device only once."""
    if "loss_on_host" not in outputs:
        outputs["loss_on_host"] = outputs["loss"].detach().cpu()
    loss: Tensor = outputs["loss_on_host"]
    return loss
