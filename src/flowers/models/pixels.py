"""Prepare pixels on the device: normalise them, and resize them for progressive training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """Turns uint8 images into a backbone's input: channels-last without a copy.

    Args:
        config: timm's data about the weights, with `mean` and `std` of pixels in 0..1, one value for each channel.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        mean, std = (torch.tensor(config[key]) * 255 for key in ("mean", "std"))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Return images uint8 `[B, H, W, 3]` as float32 `[B, 3, H, W]`."""
        return (image.permute(0, 3, 1, 2).to(torch.float32) - self.mean) / self.std
