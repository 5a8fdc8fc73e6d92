"""Test-time augmentation: several views of each picture, whose probabilities are averaged.

Views are made on the device from the batch that is there, in shapes that never change.
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
"""The side of each of the five crops, of the picture's: timm's usual share."""


@dataclass(frozen=True, slots=True)
class TTA:
    """The views of an image that are predicted: every symmetry of every crop at every size.

    Args:
        symmetries: `none`; `flip`: as it is, and mirrored left to right; `flips`: also top to bottom, and both;
            `all`: the eight symmetries of the square.
        five_crops: the four corners and the centre, each 7/8 of the picture's side, instead of the whole.
        sizes: sides in pixels that the views are resized to; none: as they are.
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
        """Return the sides in pixels of what `views` makes, by the setting that decides on them."""
        if self.sizes:
            return {"tta.sizes": list(self.sizes)}
        return {"tta.five_crops": [round(side * CROP)]} if self.five_crops else {"data.eval_size": [side]}

    def views(self, side: int) -> list[View]:
        """Return what makes each view, uint8 or float `[B, H, W, 3]`, of square images of this side in pixels."""
        crops = _five_crops(side) if self.five_crops else [_whole]
        sizes = [_resize(round(side * CROP) if self.five_crops else side, size) for size in self.sizes] or [_whole]
        return [
            _compose(crop, resize, symmetry)
            for crop in crops
            for resize in sizes
            for symmetry in _SYMMETRIES[self.symmetries]
        ]


def mean_over_views(model: Callable[[Tensor], Tensor], views: Sequence[View], images: Tensor) -> Tensor:
    """The mean of the probabilities float32 `[B, K]` of all views of images `[B, H, W, 3]`; `model` gives logits."""
    total = model(views[0](images)).float().softmax(dim=1)
    for view in views[1:]:
        total = total + model(view(images)).float().softmax(dim=1)
    return total / len(views)


def _whole(images: Tensor) -> Tensor:
    return images


def _mirror(images: Tensor) -> Tensor:
    return images.flip(2)


def _upside_down(images: Tensor) -> Tensor:
    return images.flip(1)


def _turn(images: Tensor) -> Tensor:
    """By 180 degrees."""
    return images.flip(1, 2)


def _transposed(view: View) -> View:
    return lambda images: view(images).transpose(1, 2)


_FLIPS: list[View] = [_whole, _mirror, _upside_down, _turn]
_SYMMETRIES: dict[Symmetry, list[View]] = {
    "none": [_whole],
    "flip": [_whole, _mirror],
    "flips": _FLIPS,
    "all": [*_FLIPS, *(_transposed(view) for view in _FLIPS)],
}


def _five_crops(side: int) -> list[View]:
    crop = round(side * CROP)
    far, middle = side - crop, (side - crop) // 2
    corners = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
    return [_crop(top, left, crop) for top, left in corners]


def _crop(top: int, left: int, side: int) -> View:
    return lambda images: images[:, top : top + side, left : left + side]


def _resize(side: int, size: int) -> View:
    """Bilinear with antialiasing, as a product with a matrix for each axis: what any accelerator is good at.

    torch's own is no program of XLA's: it would leave the device.
    """
    if size == side:
        return _whole
    if not 32 <= size <= 4 * side:
        raise InputError(
            f"tta.sizes: expected sides from 32 to {4 * side} pixels, four times what is resized, found {size}. Choose "
            "others."
        )
    identity = torch.eye(side)[None, None]
    matrix = interpolate(identity, (size, side), mode="bilinear", antialias=True)[0, 0]

    @cache  # the host would wait for the device with each copy
    def weights_on(device: torch.device) -> Tensor:
        return matrix.to(device)

    def resized(images: Tensor) -> Tensor:
        weights = weights_on(images.device)
        # Every accelerator rounds products to fewer bits unless told: bf16 has 8, as many as a pixel.
        lower = torch.einsum("hy,byxc->bhxc", weights, images.float())
        # One axis at a time: of three factors torch would first multiply the matrices, into one of (h y w x) elements.
        return torch.einsum("wx,bhxc->bhwc", weights, lower)

    return resized


def _compose(*views: View) -> View:
    def composed(images: Tensor) -> Tensor:
        for view in views:
            images = view(images)
        return images

    return composed
