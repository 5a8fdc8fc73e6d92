"""Freeze parts of a backbone, or the statistics of its batch norm."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from flowers.models.backbone import head_names

Trained = Literal["all", "head", "head_and_norm"]


def freeze(backbone: nn.Module, trained: Trained) -> None:
    """Freeze all weights of a timm model except those that are trained.

    Args:
        backbone: the model.
        trained: `all`; `head`: the classification layers (linear probe); `head_and_norm`: also the scales and offsets
            of its normalisation, as in FixRes, which adapts a model to another resolution (arXiv:1906.06423).
    """
    if trained == "all":
        return
    backbone.requires_grad_(False)
    for name in head_names(backbone):
        backbone.get_submodule(name).requires_grad_(True)
    if trained == "head_and_norm":
        for module in backbone.modules():
            if "norm" in type(module).__name__.lower():
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)


def set_batch_norm_eval(backbone: nn.Module) -> None:
    """Make batch norm use its running statistics without updating them."""
    for module in backbone.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
