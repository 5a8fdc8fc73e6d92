"""Compute and draw saliency maps, which show the pixels that a prediction depends on."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import lightning as L
import numpy as np
import torch
from captum.attr import NoiseTunnel, Saliency
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]

SAMPLES = 8
"""The number of noisy copies of an image over which gradients are averaged."""


def saliency_maps(
    model: L.LightningModule, images: Sequence[Image], classes: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Return a saliency map for each image, float32 `[H, W]` from 0 to 1: how much a class's logit depends on a pixel.

    SmoothGrad: Smilkov et al. 2017, arXiv:1706.03825; with the library captum.

    Args:
        model: a model whose `forward` takes images uint8 `[B, H, W, 3]`. It is left in evaluation mode.
        images: uint8 `[H, W, 3]`.
        classes: for each image the label whose logit is explained.
    """
    model.eval()
    method = NoiseTunnel(Saliency(_ForwardFloat(model)))
    maps = []
    for image, label in zip(images, classes, strict=True):
        pixels = torch.from_numpy(image)[None].float().to(model.device)
        torch.manual_seed(0)
        gradients = method.attribute(pixels, target=int(label), nt_samples=SAMPLES, stdevs=0.1 * 255)
        maps.append(_scale(gradients[0].abs().amax(dim=-1).cpu().numpy()))
    return maps


class _ForwardFloat(torch.nn.Module):
    """Passes float pixels to a model, so that they have gradients."""

    def __init__(self, model: L.LightningModule) -> None:
        super().__init__()
        self._model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self._model(pixels)
        return logits


def _scale(gradients: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur a map, because single pixels are noisy, and scale it to 0..1 with outliers clipped."""
    blurred = cv2.GaussianBlur(gradients, (0, 0), max(gradients.shape) / 50)
    low, high = np.percentile(blurred, [1, 99])
    scaled: NDArray[np.float32] = np.clip((blurred - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    return scaled


def overlay(image: Image, saliency: NDArray[np.float32]) -> Image:
    """Return a grey image overlaid with its saliency in colour, uint8 `[H, W, 3]`.

    Args:
        image: uint8 `[H, W, 3]`.
        saliency: float32 `[H, W]` from 0 to 1.
    """
    colours = cv2.applyColorMap((saliency * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    weight = saliency[..., None] * 0.7
    mixed: Image = (grey * (1 - weight) + colours * weight).astype(np.uint8)
    return mixed
