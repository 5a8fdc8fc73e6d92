"""Mixup and CutMix mix targets in the same fractions as pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowers.models.mixing import Mixer, draw_mixing, mix

ALPHAS = [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)]


@pytest.mark.parametrize(("mixup_alpha", "cutmix_alpha"), ALPHAS)
@given(seed=st.integers(0, 2**32 - 1))
def test_targets_are_mixed_like_the_pixels(mixup_alpha: float, cutmix_alpha: float, seed: int) -> None:
    # Image i has the value i everywhere and target i is class i, so both must be mixed alike.
    size, height, width = 6, 9, 7
    images = torch.arange(size, dtype=torch.float32).view(-1, 1, 1, 1).expand(size, 3, height, width)
    targets = torch.eye(size)
    mixing = draw_mixing(
        np.random.default_rng(seed), size, height, width, mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha
    )
    mixed, mixed_targets, valid = mix(images, targets, torch.ones(size, dtype=torch.bool), mixing)
    assert mixed.shape == images.shape
    assert valid.all()
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(size))
    torch.testing.assert_close(mixed.mean((1, 2, 3)), mixed_targets @ torch.arange(size, dtype=torch.float32))
    if mixup_alpha == 0:  # CutMix copies pixels, it does not blend them
        assert set(mixed.unique().tolist()) <= set(range(size))


def test_mixing_depends_only_on_the_seed() -> None:
    def draw(seed: int) -> list[float]:
        mixing = draw_mixing(np.random.default_rng(seed), 8, 32, 32, mixup_alpha=0.2, cutmix_alpha=1.0)
        return [*mixing.partner.tolist(), float(mixing.fraction), *mixing.box.tolist()]

    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(20)}) == 20
    fractions = [draw(seed)[8] for seed in range(200)]
    assert 60 < sum(fraction == 1.0 for fraction in fractions) < 140  # CutMix half of the time


def test_an_invalid_partner_makes_a_row_invalid() -> None:
    mixing = draw_mixing(np.random.default_rng(0), 4, 8, 8, mixup_alpha=1.0, cutmix_alpha=0.0)
    valid = torch.tensor([True, False, True, True])
    _, _, mixed = mix(torch.zeros(4, 3, 8, 8), torch.eye(4), valid, mixing)
    assert mixed.tolist() == [bool(valid[row] and valid[mixing.partner[row]]) for row in range(4)]


def test_mixing_has_no_effect_after_its_last_epoch() -> None:
    mixer = Mixer(mixup_alpha=0.4, cutmix_alpha=1.0, epochs=2, seed=1)
    images, targets, valid = torch.rand(16, 3, 8, 8), torch.eye(16), torch.arange(16) < 15
    for epoch in range(4):
        mixing = mixer.draw(16, 8, 8, epoch=epoch, batch_idx=0)
        assert mixing is not None  # so that a compiling device runs the same program
        mixed = mix(images, targets, valid, mixing)
        unchanged = all(torch.equal(new, old) for new, old in zip(mixed, (images, targets, valid), strict=True))
        assert unchanged == (epoch >= 2)


def test_a_mixer_without_alphas_mixes_nothing() -> None:
    assert Mixer(epochs=2).draw(4, 8, 8, epoch=0, batch_idx=0) is None
