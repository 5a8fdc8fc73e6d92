"""Check whether a backbone takes images of a size, before training and without computing values."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from flowers.errors import InputError
from flowers.models.backbone import weights_config

_REACH = 64
"""The largest distance, in pixels, at which other sizes are tried if one does not work."""


def check_image_sizes(backbone: nn.Module, sizes: Mapping[str, Iterable[int]]) -> None:
    """Raise `InputError` unless a backbone takes square images of all sizes.

    Args:
        backbone: a timm model on the CPU.
        sizes: the sides in pixels, by the name of their setting.
    """
    for setting, sides in sizes.items():
        for side in sides:
            if error := explain_size(backbone, side):
                working = nearest_sizes(backbone, side)
                choices = f"Sizes that work: {' and '.join(map(str, working))}." if working else "No near size works."
                raise InputError(
                    f"{setting}: expected images of a size that {weights_config(backbone)['architecture']} takes, "
                    f"found {side} px: {error.rstrip('.')}. {choices}"
                )


def explain_size(backbone: nn.Module, side: int) -> str | None:
    """Explain why a backbone does not take images with a side in pixels; return None if it does."""
    try:
        _forward(_without_values(backbone), side, "meta")
        return None
    except Exception:  # wrong shapes, or a model that needs values: try again with values
        pass
    try:
        _forward(copy.deepcopy(backbone), side, "cpu")
        return None
    except Exception as error:  # models raise many types of errors
        return str(error).partition("\n")[0] or type(error).__name__


def nearest_sizes(backbone: nn.Module, side: int) -> list[int]:
    """Find the nearest smaller and larger sides in pixels that a backbone takes; empty if none are near."""
    own = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    candidates = {size for size in range(side - _REACH, side + _REACH) if size % 16 == 0 or size % 14 == 0}
    candidates |= {own[0]} if own else set()  # multiples of the usual patches, and what the model was made for
    smaller = sorted((size for size in candidates if 0 < size < side), reverse=True)
    larger = sorted(size for size in candidates if size > side)
    found = [
        next((size for size in sizes if explain_size(backbone, size) is None), None) for sizes in (smaller, larger)
    ]
    return [size for size in found if size is not None]


@torch.no_grad()
def _forward(backbone: nn.Module, side: int, device: str) -> None:
    backbone.eval()(torch.zeros(1, 3, side, side, device=device))


def _without_values(module: nn.Module) -> nn.Module:
    """Copy a module with all its tensors on the meta device, which has shapes but no values."""
    memo: dict[int, object] = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    for buffer in module.buffers():
        memo[id(buffer)] = buffer.to("meta")
    return copy.deepcopy(module, memo)
