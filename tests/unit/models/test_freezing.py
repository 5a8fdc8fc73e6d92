"""Settings decide which parameters are trained and which statistics stay fixed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch

from flowers.models.backbone import create_backbone
from flowers.models.classifier import FlowerClassifier
from flowers.models.freezing import Trained

HEAD = ["backbone.classifier.bias", "backbone.classifier.weight"]


def trained_names(trained: Trained) -> list[str]:
    model = FlowerClassifier(["a", "b"], "test_efficientnet", trained=trained)
    return sorted(name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_trained_selects_the_head_norm_layers_or_all_parameters() -> None:
    names = {trained: trained_names(trained) for trained in get_args(Trained)}
    assert names["head"] == HEAD
    others = set(names["head_and_norm"]) - set(HEAD)
    assert others
    assert all("bn" in name for name in others)
    assert set(names["head_and_norm"]) < set(names["all"])


@pytest.mark.parametrize(("pretrained", "frozen"), [(True, False), (True, True), (False, True)])
def test_frozen_batch_norm_keeps_the_statistics_of_pretrained_weights(
    pretrained: bool, frozen: bool, tmp_path: Path
) -> None:
    torch.save(create_backbone("test_efficientnet", 2, False).state_dict(), tmp_path / "weights.pt")
    weights = str(tmp_path / "weights.pt") if pretrained else False
    model = FlowerClassifier(["a", "b"], "test_efficientnet", weights, freeze_batch_norm=frozen)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items() if "running" in name}
    assert before
    model.backbone(torch.randn(2, 3, 64, 64))  # as Lightning starts a training: it does not call train()
    model.eval()
    model.train()
    model.backbone(torch.randn(2, 3, 64, 64))
    after = model.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items()) == (frozen and pretrained)
    assert model.backbone.training  # drop path and dropout stay active
