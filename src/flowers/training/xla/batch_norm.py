"""Make batch norm with fixed statistics differentiable, which it is not in torch_xla 2.9."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_batch_norm = F.batch_norm


def allow_fixed_statistics() -> None:
    """Make `torch.nn.functional.batch_norm` differentiable on XLA when it uses its running statistics.

    torch_xla's own gradient uses the statistics of the batch, and raises an error if there are none.
    """
    F.batch_norm = _differentiable


@functools.wraps(_batch_norm)
def _differentiable(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    fixed = not training and torch.is_grad_enabled() and input.device.type == "xla"
    if not fixed or running_mean is None or running_var is None:
        return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return normalise(input, running_mean, running_var, weight, bias, eps)


def normalise(
    input: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """Return batch norm of `[B, C, ...]` with fixed statistics `[C]`, computed in float32; same shape and dtype."""
    scale = torch.rsqrt(variance + eps) * (1.0 if weight is None else weight)
    shift = (0.0 if bias is None else bias) - mean * scale
    shape: Any = (1, -1, *[1] * (input.ndim - 2))
    return (input.float() * scale.view(shape) + shift.view(shape)).to(input.dtype)
