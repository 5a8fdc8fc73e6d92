"""Progressive resizing keeps one size within an epoch, and each size for an equal part of a run."""

from __future__ import annotations

import collections

import pytest
import torch

from flowers.models.pixels import resize, size_of_epoch


@pytest.mark.parametrize(("sizes", "epochs"), [([96, 128], 5), ([96, 128, 160], 9), ([96], 4), ([96, 128, 160], 2)])
def test_sizes_grow_in_equal_parts_of_the_epochs(sizes: list[int], epochs: int) -> None:
    found = [size_of_epoch(sizes, epoch, epochs) for epoch in range(epochs)]
    assert found == sorted(found)
    counts = collections.Counter(found)
    assert epochs < len(sizes) or max(counts.values()) - min(counts.values()) <= 1
    assert size_of_epoch(sizes, epochs + 3, epochs) == sizes[-1]


def test_resizing_keeps_a_uniform_image_uniform() -> None:
    images = torch.tensor([0.25, 0.5]).view(2, 1, 1, 1).expand(2, 3, 8, 8)
    smaller = resize(images, 6)
    assert smaller.shape == (2, 3, 6, 6)
    torch.testing.assert_close(smaller, images[:, :, :6, :6])
    assert resize(images, 8) is images
