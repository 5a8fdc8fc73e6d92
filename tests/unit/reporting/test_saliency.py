"""Saliency is high in the part of the image that the prediction depends on."""

from __future__ import annotations

import lightning as L
import numpy as np
import torch
from torch import Tensor

from flowers.reporting.saliency import overlay, saliency_maps


class CornerModel(L.LightningModule):
    """Returns the mean brightness of the first 16 rows and columns, and its negative, as logits."""

    def forward(self, image: Tensor) -> Tensor:
        brightness = image[:, :16, :16].float().mean(dim=(1, 2, 3)) / 255
        return torch.stack([brightness, -brightness], dim=1)


def test_the_deciding_corner_has_high_saliency() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for found in saliency_maps(CornerModel(), [image, image], [0, 1]):
        assert (found.shape, found.dtype) == ((64, 64), np.float32)
        assert 0 <= found.min() <= found.max() <= 1
        assert found[:14, :14].mean() > 0.9
        assert found[20:, 20:].mean() < 0.05
        shown = overlay(image, found)
        assert (shown.shape, shown.dtype) == (image.shape, np.uint8)
