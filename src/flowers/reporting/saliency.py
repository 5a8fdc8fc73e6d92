"""Show which pixels a prediction depends on."""

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
"""Noisy copies of an image over which its gradients are averaged."""


def saliency_maps(
    model: L.LightningModule, images: Sequence[Image], classes: Sequence[int]
) -> list[NDArray[np.float32]]:
    """Return how much the logit of a class depends on each pixel, one float32 `[H, W]` in 0..1 for each image.

    SmoothGrad: Smilkov et al. 2017, arXiv:1706.03825; with the library captum.

    Args:
        model: its `forward` takes uint8 images `[B, H, W, 3]`; it is left in evaluation mode.
        images: uint8 `[H, W, 3]`.
        classes: the label whose logit is explained, for each image.
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
    """Passes float pixels to a model, so that gradients reach them."""

    def __init__(self, model: L.LightningModule) -> None:
        super().__init__()
        self._model = model

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self._model(pixels)
        return logits


def _scale(gradients: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blur a map, as single pixels say little, and scale it to 0..1, outliers cut off."""
    blurred = cv2.GaussianBlur(gradients, (0, 0), max(gradients.shape) / 50)
    low, high = np.percentile(blurred, [1, 99])
    scaled: NDArray[np.float32] = np.clip((blurred - low) / max(high - low, 1e-12), 0, 1).astype(np.float32)
    return scaled


def overlay(image: Image, saliency: NDArray[np.float32]) -> Image:
    """Return an image in grey with its saliency in colour over it, uint8 `[H, W, 3]`."""
    colours = cv2.applyColorMap((saliency * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    weight = saliency[..., None] * 0.7
    mixed: Image = (grey * (1 - weight) + colours * weight).astype(np.uint8)
    return mixed
