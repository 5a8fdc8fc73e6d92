"""Compute a backbone's features, and fit its head to them: a linear probe."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from torch import Tensor, nn

from flowers.models.backbone import head_names

PENALTY = 10.0
"""The weight of the squared norm in the regression (scikit-learn's `1 / C`), for features of unit variance."""


def compute_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """Return what a timm model's head is given, `[B, F]`, for its input `[B, 3, H, W]`."""
    model: Any = backbone
    return cast(Tensor, model.forward_head(model.forward_features(images), pre_logits=True))


def find_linear_head(backbone: nn.Module) -> nn.Linear | None:
    """Return the one linear layer that turns a timm model's features into logits; None if that is not how it works."""
    names = head_names(backbone)
    head = backbone.get_submodule(names[0]) if len(names) == 1 else None
    return head if isinstance(head, nn.Linear) and hasattr(backbone, "forward_head") else None


def fit_linear_head(
    features: NDArray[np.float32], labels: NDArray[np.int64], class_count: int
) -> tuple[Tensor, Tensor]:
    """Fit a multinomial logistic regression: one linear layer on frozen features.

    Args:
        features: float32 `[N, F]`.
        labels: int64 `[N]`, of two classes at least.
        class_count: `K`. A class without any image gets the least logit of all, whatever the features.

    Returns:
        Weights float32 `[K, F]` and biases float32 `[K]`.
    """
    mean, scale = features.mean(0), float(features.std()) or 1.0
    found = LogisticRegression(C=1 / PENALTY, max_iter=1000).fit((features - mean) / scale, labels)
    rows = _both_classes(found.coef_) / scale
    biases = _both_classes(found.intercept_) - rows @ mean
    weight, bias = np.zeros((class_count, features.shape[1])), np.full(class_count, (features @ rows.T + biases).min())
    weight[found.classes_], bias[found.classes_] = rows, biases
    return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()


def _both_classes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a row for each class, where scikit-learn gives the difference of two classes alone."""
    return np.concatenate([-values, values]) / 2 if len(values) == 1 else values
