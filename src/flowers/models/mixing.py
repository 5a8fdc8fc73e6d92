"""Mixup and CutMix with one formula: each pixel is a weighted mean of an image and its partner.

Mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. The parameters are drawn on the
host from a seed. The mixing itself has fixed shapes and no branches on data, as compiling devices need.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixing:
    """The mixing parameters of one batch.

    partner: int64 `[B]`, the row that each row is mixed with.
    fraction: float32 `[1]`, the weight of a row's own pixels outside the box; 1 for CutMix. Not a scalar: XLA builds a
        scalar of 0 or 1 into the program, and compiles again for another one.
    box: int64 `[4]`, top, bottom, left, right in pixels. Inside it all pixels are the partner's. Empty for mixup.
    """

    partner: Tensor
    fraction: Tensor
    box: Tensor

    def to(self, device: torch.device) -> Mixing:
        """Return the parameters on a device."""
        return Mixing(self.partner.to(device), self.fraction.to(device), self.box.to(device))


@dataclass(frozen=True, slots=True)
class Mixer:
    """Draws the mixing parameters of each batch. A resumed run draws the same ones.

    mixup_alpha, cutmix_alpha: the parameters of the Beta distributions of Mixup and CutMix; 0: none.
    epochs: the number of epochs with mixing, after which images are not mixed; None: all.
    seed: the random seed.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    epochs: int | None = None
    seed: int = 0

    def draw(self, batch_size: int, height: int, width: int, *, epoch: int, batch_idx: int) -> Mixing | None:
        """Draw the mixing parameters of a batch; return None if the run does no mixing.

        After the last epoch with mixing, each row is mixed with itself, so that a compiling device needs no other
        program.
        """
        if self.mixup_alpha == 0 and self.cutmix_alpha == 0:
            return None
        if self.epochs is not None and epoch >= self.epochs:
            return keep_unmixed(batch_size)
        rng = np.random.default_rng([self.seed, epoch, batch_idx])
        alphas = {"mixup_alpha": self.mixup_alpha, "cutmix_alpha": self.cutmix_alpha}
        return draw_mixing(rng, batch_size, height, width, **alphas)


def keep_unmixed(batch_size: int) -> Mixing:
    """Return mixing parameters that leave every row unchanged."""
    return Mixing(torch.arange(batch_size), torch.ones(1), torch.zeros(4, dtype=torch.int64))


def draw_mixing(
    rng: np.random.Generator, batch_size: int, height: int, width: int, *, mixup_alpha: float, cutmix_alpha: float
) -> Mixing:
    """Draw the parameters of Mixup or CutMix for a batch, with equal chances if both alphas are above zero."""
    partner = rng.permutation(batch_size)
    cutmix = cutmix_alpha > 0 and (mixup_alpha <= 0 or rng.random() < 0.5)
    alpha = cutmix_alpha if cutmix else mixup_alpha
    kept = float(rng.beta(alpha, alpha))
    box = _draw_box(rng, height, width, 1 - kept) if cutmix else (0, 0, 0, 0)
    return Mixing(
        partner=torch.from_numpy(partner.astype(np.int64)),
        fraction=torch.tensor([1.0 if cutmix else kept], dtype=torch.float32),
        box=torch.tensor(box, dtype=torch.int64),
    )


def _draw_box(rng: np.random.Generator, height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """Draw a box of about the fraction `area` of the image, with its centre anywhere, clipped at the edges."""
    half_height, half_width = area**0.5 * height / 2, area**0.5 * width / 2
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = np.clip([y - half_height, y + half_height], 0, height)
    left, right = np.clip([x - half_width, x + half_width], 0, width)
    return int(top), int(bottom), int(left), int(right)


def mix(images: Tensor, targets: Tensor, valid: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor, Tensor]:
    """Mix a batch: images float `[B, C, H, W]`, targets `[B, K]` that sum to 1, valid bool `[B]`; same shapes out.

    The weights of the two targets are the fractions of the two images. A row stays valid only if its partner is valid.
    """
    height, width = images.shape[-2:]
    top, bottom, left, right = mixing.box
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)[None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    keep = torch.where(inside, torch.zeros_like(mixing.fraction), mixing.fraction)
    kept = keep.mean()
    keep = keep.to(images.dtype)
    mixed_images = images * keep + images[mixing.partner] * (1 - keep)
    mixed_targets = targets * kept + targets[mixing.partner] * (1 - kept)
    return mixed_images, mixed_targets, valid & valid[mixing.partner]
