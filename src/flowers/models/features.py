"""Compute a backbone's features, and fit its head to them: a linear probe."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowers.models.backbone import head_names

PENALTY = 10.0
"""The weight of the squared norm in the regression (scikit-learn's `1 / C`), for features of unit variance."""


def compute_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return the input of a timm model's head, float `[B, F]`, for images float `[B, 3, H, W]`."""
    model: Any = backbone
    return cast(Tensor, model.forward_head(model.forward_features(images), pre_logits=True))


def find_linear_head(backbone: nn.Module) -> nn.Linear | None:
    """Return a timm model's head, if it is a single linear layer on the features, else None."""
    names = head_names(backbone)
    head = backbone.get_submodule(names[0]) if len(names) == 1 else None
    return head if isinstance(head, nn.Linear) and hasattr(backbone, "forward_head") else None


def fit_linear_head(
    features: NDArray[np.float32], labels: NDArray[np.int64], class_count: int
) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression: one linear layer on frozen features.

    Args:
        features: float32 `[N, F]`.
        labels: int64 `[N]`, of at least two classes.
        class_count: `K`. A class without images gets a constant logit: the lowest of all classes on these features.

    Returns:
        Weights float32 `[K, F]` and biases float32 `[K]`.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # takes a second

    mean, scale = features.mean(0), float(features.std()) or 1.0
    found = LogisticRegression(C=1 / PENALTY, max_iter=1000).fit((features - mean) / scale, labels)
    rows = _expand_binary(found.coef_) / scale
    biases = _expand_binary(found.intercept_) - rows @ mean
    weight, bias = np.zeros((class_count, features.shape[1])), np.full(class_count, (features @ rows.T + biases).min())
    weight[found.classes_], bias[found.classes_] = rows, biases
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _expand_binary(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a row for each class. For two classes, scikit-learn gives only their difference."""
    return np.concatenate([-values, values]) / 2 if len(values) == 1 else values
