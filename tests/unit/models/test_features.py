"""A linear head fitted to features matches scikit-learn's logistic regression."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from flowers.models.features import PENALTY, compute_features, find_linear_head, fit_linear_head


def make_clusters(classes: list[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    labels = np.repeat(classes, 20)
    centres = rng.normal(size=(max(classes) + 1, 8))
    return (centres[labels] + rng.normal(size=(len(labels), 8))).astype(np.float32) * 3 + 5, labels


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 1]])
def test_the_probabilities_of_the_head_match_logistic_regression(classes: list[int]) -> None:
    features, labels = make_clusters(classes)
    weight, bias = fit_linear_head(features, labels, len(classes))
    scaled = (features - features.mean(0)) / features.std()
    expected = LogisticRegression(C=1 / PENALTY, max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    found = (torch.from_numpy(features) @ weight.T + bias).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_class_without_images_is_not_preferred() -> None:
    features, labels = make_clusters([0, 2])
    weight, bias = fit_linear_head(features, labels, 4)
    logits = torch.from_numpy(features) @ weight.T + bias
    assert (logits.argmax(1).numpy() == labels).mean() > 0.9
    assert (logits[:, [1, 3]].max(1).values <= logits[:, [0, 2]].min(1).values + 1e-4).all()


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit", "test_resnet", "test_convnext"])
def test_the_head_turns_features_into_logits(name: str) -> None:
    backbone = timm.create_model(name, num_classes=5).eval()
    head, images = find_linear_head(backbone), torch.randn(2, 3, *backbone.pretrained_cfg["input_size"][1:])
    assert head is not None
    torch.testing.assert_close(head(compute_features(backbone, images)), backbone(images))


def test_a_model_of_two_heads_has_no_linear_head() -> None:
    backbone = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=5)
    assert find_linear_head(backbone) is None
