"""Test-time augmentation: average the probabilities over several views of each image.

Views are computed on the device from the batch. Their shapes are fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from flowers.errors import InputError
from flowers.settings import Positive

Symmetry = Literal["none", "flip", "flips", "all"]
View = Callable[[Tensor], Tensor]

CROP = 7 / 8
"""The side of each of the five crops, as a fraction of the image's side: timm's usual value."""


@dataclass(frozen=True, slots=True)
class TTA:
    """The views of an image that are predicted: every symmetry of every crop at every size.

    Args:
        symmetries: `none`; `flip`: unchanged, and flipped horizontally; `flips`: also flipped vertically, and both;
            `all`: the eight symmetries of the square.
        five_crops: whether to use the four corners and the centre, each with 7/8 of the image's side, instead of the
            whole image.
        sizes: the sides in pixels that the views are resized to; empty: no resizing.
    """

    symmetries: Symmetry = "none"
    five_crops: bool = False
    sizes: Sequence[Positive] = ()

    def __str__(self) -> str:
        """Return a short description: `none`, or `flip, five crops, 192 + 224 px`."""
        parts = [self.symmetries] * (self.symmetries != "none") + ["five crops"] * self.five_crops
        parts += [" + ".join(map(str, self.sizes)) + " px"] * bool(self.sizes)
        return ", ".join(parts) or "none"

    def sides(self, side: int) -> dict[str, list[int]]:
        """Return the sides of the views in pixels, by the setting that determines them."""
        if self.sizes:
            return {"tta.sizes": list(self.sizes)}
        return {"tta.five_crops": [round(side * CROP)]} if self.five_crops else {"data.eval_size": [side]}

    def views(self, side: int) -> list[View]:
        """Return a function for each view of square images with this side in pixels.

        Each function takes and returns images uint8 or float `[B, H, W, 3]`.
        """
        crops = _five_crops(side) if self.five_crops else [_identity]
        sizes = [_resize(round(side * CROP) if self.five_crops else side, size) for size in self.sizes] or [_identity]
        return [
            _compose(crop, resize, symmetry)
            for crop in crops
            for resize in sizes
            for symmetry in _SYMMETRIES[self.symmetries]
        ]


def mean_over_views(model: Callable[[Tensor], Tensor], views: Sequence[View], images: Tensor) -> Tensor:
    """Return the mean probabilities over all views, float32 `[B, K]`.

    Args:
        model: returns the logits `[B, K]` of a view.
        views: the functions that compute the views.
        images: uint8 or float `[B, H, W, 3]`.
    """
    total = model(views[0](images)).float().softmax(dim=1)
    for view in views[1:]:
        total = total + model(view(images)).float().softmax(dim=1)
    return total / len(views)


def _identity(images: Tensor) -> Tensor:
    return images


def _flip_horizontally(images: Tensor) -> Tensor:
    return images.flip(2)


def _flip_vertically(images: Tensor) -> Tensor:
    return images.flip(1)


def _rotate_180(images: Tensor) -> Tensor:
    return images.flip(1, 2)


def _transpose_after(view: View) -> View:
    return lambda images: view(images).transpose(1, 2)


_FLIPS: list[View] = [_identity, _flip_horizontally, _flip_vertically, _rotate_180]
_SYMMETRIES: dict[Symmetry, list[View]] = {
    "none": [_identity],
    "flip": [_identity, _flip_horizontally],
    "flips": _FLIPS,
    "all": [*_FLIPS, *(_transpose_after(view) for view in _FLIPS)],
}


def _five_crops(side: int) -> list[View]:
    crop = round(side * CROP)
    far, middle = side - crop, (side - crop) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    return [_crop(top, left, crop) for top, left in corners]


def _crop(top: int, left: int, side: int) -> View:
    return lambda images: images[:, top : top + side, left : left + side]


def _resize(side: int, size: int) -> View:
    """Return a view that resizes bilinearly with antialiasing, by multiplying with one matrix per axis.

    Every accelerator is fast at that. torch's own antialiasing is not available on XLA, and would run on the host.
    """
    if size == side:
        return _identity
    if not 32 <= size <= 4 * side:
        raise InputError(
            f"tta.sizes: expected sides from 32 to {4 * side} pixels, four times the original side, found {size}. "
            "Choose others."
        )
    identity = torch.eye(side)[None, None]
    matrix = interpolate(identity, (size, side), mode="bilinear", antialias=True)[0, 0]

    @cache  # each copy would make the host wait for the device
    def weights_on(device: torch.device) -> Tensor:
        return matrix.to(device)

    def resized(images: Tensor) -> Tensor:
        weights = weights_on(images.device)
        # Accelerators may round factors to fewer bits by default: bf16 has 8, as many as a pixel.
        lower = torch.einsum("hy,byxc->bhxc", weights, images.float())
        # One axis at a time: with three factors torch would first multiply the matrices, to (h y w x) elements.
        return torch.einsum("wx,bhxc->bhwc", weights, lower)

    return resized


def _compose(*views: View) -> View:
    def composed(images: Tensor) -> Tensor:
        for view in views:
            images = view(images)
        return images

    return composed
