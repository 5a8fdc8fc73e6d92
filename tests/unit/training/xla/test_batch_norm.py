"""Batch norm with fixed statistics matches torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flowers.training.xla.batch_norm import normalise


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 6)])
def test_values_and_gradients_match_torch(shape: tuple[int, ...], affine: bool) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(shape, dtype=torch.float32, requires_grad=True)
    mean, variance = torch.randn(3), torch.rand(3) + 0.5
    weight, bias = (torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)) if affine else (None, None)
    leaves = [leaf for leaf in (inputs, weight, bias) if leaf is not None]
    expected = F.batch_norm(inputs, mean, variance, weight, bias, False, 0.1, 1e-3)
    found = normalise(inputs, mean, variance, weight, bias, 1e-3)
    torch.testing.assert_close(found, expected)
    for ours, theirs in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in (found, expected)), strict=True):
        torch.testing.assert_close(ours, theirs)
