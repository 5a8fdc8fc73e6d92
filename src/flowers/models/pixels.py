"""Prepare pixels on the device: normalise them, and resize them in training (progressive resizing)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalise(nn.Module):
    """Converts uint8 images to a backbone's input, which is channels-last without a copy.

    Args:
        config: timm's metadata of the weights, with `mean` and `std` of pixels in 0..1, one value for each channel.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        mean, std = (torch.tensor(config[key]) * 255 for key in ("mean", "std"))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return images uint8 `[B, H, W, 3]` as normalised float32 `[B, 3, H, W]`."""
        return (image.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std

    def restore(self, images: Tensor) -> Tensor:
        """Return a backbone's input float `[B, 3, H, W]`, mixed or not, as images uint8 `[B, H, W, 3]`."""
        pixels = images.float() * self.std + self.mean
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def size_of_epoch(sizes: Sequence[int], epoch: int, epochs: int) -> int:
    """Return the side of the training images in an epoch, in pixels. Each size is used for an equal part of the run.

    Progressive resizing: Tan & Le 2021, arXiv:2104.00298. Within an epoch the size is fixed, so that a compiling device
    needs one program for each size. Epochs beyond the last have the last size.
    """
    return sizes[min(epoch * len(sizes) // max(epochs, 1), len(sizes) - 1)]


def resize(images: Tensor, side: int) -> Tensor:
    """Resize images float `[B, C, H, W]` to `[B, C, side, side]`, bilinear; unchanged if they have that size."""
    if images.shape[-1] == images.shape[-2] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
