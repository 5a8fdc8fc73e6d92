"""Mixup and CutMix with one formula: each image keeps a share of every pixel and gives the rest to a partner.

mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. What to mix is drawn on
the host from a seed; the mixing itself has fixed shapes and no branch on data, as a compiling device wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixing:
    """One batch's mixing.

    partner: int64 `[B]`, the row that each row mixes with.
    share: float32 `[1]`, what a row keeps of itself outside the box; 1 for CutMix. Not a scalar: XLA builds a scalar
        of 0 or 1 into the program, and so compiles again when another one comes.
    box: int64 `[4]`, top, bottom, left, right in pixels: all the partner's; empty for mixup.
    """

    partner: Tensor
    share: Tensor
    box: Tensor

    def to(self, device: torch.device) -> Mixing:
        return Mixing(self.partner.to(device), self.share.to(device), self.box.to(device))


@dataclass(frozen=True, slots=True)
class Mixer:
    """Draws the mixing of each batch of a run, the same for a run that is resumed.

    mixup_alpha, cutmix_alpha: of the Beta distributions of the two; 0: none.
    epochs: after so many epochs images are mixed no more; None: always.
    seed: of the draws.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    epochs: int | None = None
    seed: int = 0

    def draw(self, batch_size: int, height: int, width: int, *, epoch: int, batch_idx: int) -> Mixing | None:
        """Draw a batch's mixing; None if the run mixes nothing.

        After the last epoch that is mixed each row is mixed with itself: to a compiling device the same program.
        """
        if self.mixup_alpha == 0 and self.cutmix_alpha == 0:
            return None
        if self.epochs is not None and epoch >= self.epochs:
            return keep_unmixed(batch_size)
        rng = np.random.default_rng([self.seed, epoch, batch_idx])
        alphas = {"mixup_alpha": self.mixup_alpha, "cutmix_alpha": self.cutmix_alpha}
        return draw_mixing(rng, batch_size, height, width, **alphas)


def keep_unmixed(batch_size: int) -> Mixing:
    """Return the mixing that leaves every row as it is."""
    return Mixing(torch.arange(batch_size), torch.ones(1), torch.zeros(4, dtype=torch.int64))


def draw_mixing(
    rng: np.random.Generator, batch_size: int, height: int, width: int, *, mixup_alpha: float, cutmix_alpha: float
) -> Mixing:
    """Draw a batch's mixing: mixup or CutMix, with equal chances where both have an alpha above zero."""
    partner = rng.permutation(batch_size)
    cutmix = cutmix_alpha > 0 and (mixup_alpha <= 0 or rng.random() < 0.5)
    alpha = cutmix_alpha if cutmix else mixup_alpha
    kept = float(rng.beta(alpha, alpha))
    box = _draw_box(rng, height, width, 1 - kept) if cutmix else (0, 0, 0, 0)
    return Mixing(
        partner=torch.from_numpy(partner.astype(np.int64)),
        share=torch.tensor([1.0 if cutmix else kept], dtype=torch.float32),
        box=torch.tensor(box, dtype=torch.int64),
    )


def _draw_box(rng: np.random.Generator, height: int, width: int, area: float) -> tuple[int, int, int, int]:
    """A box of about `area` of the image, its centre anywhere, cut at the edges."""
    half_height, half_width = area**0.5 * height / 2, area**0.5 * width / 2
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    top, bottom = np.clip([y - half_height, y + half_height], 0, height)
    left, right = np.clip([x - half_width, x + half_width], 0, width)
    return int(top), int(bottom), int(left), int(right)


def mix(images: Tensor, targets: Tensor, valid: Tensor, mixing: Mixing) -> tuple[Tensor, Tensor, Tensor]:
    """Mix a batch: images float `[B, C, H, W]`, targets `[B, K]` that sum to 1, valid bool `[B]`; same shapes out.

    A target keeps just the share of the image that is its own; a row is valid if its partner is, too.
    """
    height, width = images.shape[-2:]
    top, bottom, left, right = mixing.box
    rows = torch.arange(height, device=images.device)[:, None]
    columns = torch.arange(width, device=images.device)[None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    keep = torch.where(inside, torch.zeros_like(mixing.share), mixing.share)
    kept = keep.mean()
    keep = keep.to(images.dtype)
    mixed_images = images * keep + images[mixing.partner] * (1 - keep)
    mixed_targets = targets * kept + targets[mixing.partner] * (1 - kept)
    return mixed_images, mixed_targets, valid & valid[mixing.partner]
