"""Backbones are ranked by a classifier on their features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowers.errors import InputError
from flowers.inference.choose import Candidate, Extractor, Features, cross_validate, score_on
from flowers.interfaces import Batch
from flowers.models.classifier import FlowerClassifier
from flowers.reporting.choose import next_command
from tests.helpers.configuration import check

CLASSES = 6


def make_features(rows: int, skill: float, seed: int = 0) -> Features:
    """Return features in one cluster per class. `skill` is the distance of the clusters from the origin."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % CLASSES
    centres = np.eye(CLASSES, 8) * skill
    return Features((centres[labels] + rng.normal(size=(rows, 8))).astype(np.float32), labels)


def test_separable_features_score_one_and_random_ones_chance() -> None:
    assert cross_validate(make_features(120, 30), seed=0) == (1, 1)
    accuracy, f1 = cross_validate(make_features(600, 0), seed=0)
    assert 0.08 < accuracy < 0.26 and 0.08 < f1 < 0.26
    assert score_on(make_features(120, 30), make_features(60, 30, seed=1)) == (1, 1)


def test_a_class_of_one_image_is_accepted() -> None:
    known = make_features(120, 30)
    rare = Features(np.r_[known.features, known.features[:1]], np.r_[known.labels, CLASSES])
    accuracy, _ = cross_validate(rare, seed=0)
    assert accuracy == pytest.approx(120 / 121)


def test_classes_of_two_images_are_cross_validated() -> None:
    assert cross_validate(make_features(2 * CLASSES, 50), seed=0)[0] > 0.8


@pytest.mark.parametrize("labels", [np.zeros(50, np.int64), np.arange(8)])
def test_one_class_or_one_image_of_each_is_refused(labels: np.ndarray[Any, np.dtype[np.int64]]) -> None:
    with pytest.raises(InputError, match=r"^train_images: "):
        cross_validate(Features(np.ones((len(labels), 3), np.float32), labels), seed=0)


def test_invalid_rows_have_no_features() -> None:
    extractor = Extractor(FlowerClassifier(["a", "b"], "test_efficientnet").eval())
    images = torch.zeros(3, 64, 64, 3, dtype=torch.uint8)
    batch = Batch(image=images, label=torch.tensor([1, 0, -1]), valid=torch.tensor([True, True, False]))
    with torch.no_grad():
        extractor.predict_step(batch, 0)
        assert extractor.images_per_second is None  # the first batch is not timed
        extractor.predict_step(batch, 1)
    assert extractor.images_per_second is not None
    taken = extractor.take()
    assert taken.labels.tolist() == [1, 0, 1, 0]
    assert len(taken.features) == 4


@pytest.mark.parametrize("pretrained", ["wheel", True])
def test_the_suggested_command_is_valid_for_train(pretrained: bool | str, tmp_path: Path) -> None:
    data = ["data=tfrecords", f"data.root={tmp_path}", "+data.storage_options.anon=true"]
    best = Candidate("resnet18", pretrained, 1.0, 1.0, None, None, None, 1, "mit")
    _, script, *overrides = next_command(best, data).split(" ")
    assert script == "src/train.py"
    settings = check("train", *overrides)
    assert (settings.model["backbone"], settings.model["pretrained"]) == ("resnet18", pretrained)
    assert settings.data["root"] == str(tmp_path)
