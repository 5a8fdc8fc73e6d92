"""Views match numpy's rotations, torchvision's crops and torch's resizing, and their mean is taken over softmaxes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.profiler import ProfilerActivity
from torchvision.transforms.functional import five_crop

from flowers.errors import InputError
from flowers.inference.tta import TTA, Symmetry, View, mean_over_views

SIDE = 64

Pixels = NDArray[np.uint8]


def make_images(side: int = SIDE, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)


def apply_views(views: list[View], images: Tensor) -> set[bytes]:
    """Return the bytes of each view of the images."""
    return {np.ascontiguousarray(view(images).numpy()).tobytes() for view in views}


def rotate(pixels: Pixels, quarters: int, mirrored: bool) -> Pixels:
    turn = np.rot90(pixels, quarters, axes=(1, 2))
    return turn[:, :, ::-1] if mirrored else turn


SYMMETRIES: dict[Symmetry, list[tuple[int, bool]]] = {
    "none": [(0, False)],
    "flip": [(0, False), (0, True)],
    "flips": [(0, False), (0, True), (2, True), (2, False)],
    "all": [(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)],
}
"""Each symmetry as quarter turns, and whether the result is mirrored."""


@pytest.mark.parametrize("symmetries", SYMMETRIES)
def test_symmetries_are_turns_and_mirror_images(symmetries: Symmetry) -> None:
    images = make_images()
    expected = [rotate(images.numpy(), *each) for each in SYMMETRIES[symmetries]]
    views = TTA(symmetries).views(SIDE)
    assert apply_views(views, images) == {np.ascontiguousarray(each).tobytes() for each in expected}
    assert len(views) == len(expected)
    assert torch.equal(views[0](images), images)


@pytest.mark.parametrize("symmetries", SYMMETRIES)
def test_two_symmetries_combine_to_one_of_them(symmetries: Symmetry) -> None:
    images, views = make_images(), TTA(symmetries).views(SIDE)
    for first in views:
        assert apply_views(views, first(images)) == apply_views(views, images)


@pytest.mark.parametrize("side", [64, 72, 63, 53, 33])
def test_five_crops_match_torchvision(side: int) -> None:
    images, crop = make_images(side), round(side * 7 / 8)
    expected = list(five_crop(images.permute(0, 3, 1, 2), [crop, crop]))
    found = [view(images).permute(0, 3, 1, 2) for view in TTA(five_crops=True).views(side)]
    assert len(found) == 5
    for each, other in zip(found[:4], expected[:4], strict=True):
        assert torch.equal(each, other)
    # With an odd margin torchvision rounds half to even, so its crop is one pixel off the middle, to either side.
    margin = side - crop
    middles = [images[:, at : at + crop, at : at + crop] for at in {margin // 2, -(-margin // 2)}]
    assert any(torch.equal(found[4], middle.permute(0, 3, 1, 2)) for middle in middles)
    if margin % 2 == 0:
        assert torch.equal(found[4], expected[4])


@pytest.mark.parametrize(("side", "size"), [(64, 48), (64, 33), (63, 32), (64, 96), (63, 101), (64, 256), (64, 64)])
def test_resizing_matches_torch(side: int, size: int) -> None:
    images = make_images(side)
    (view,) = TTA(sizes=[size]).views(side)
    expected = nn.functional.interpolate(
        images.permute(0, 3, 1, 2).float(), (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(view(images).float().permute(0, 3, 1, 2), expected, rtol=0, atol=1e-3)


def test_resizing_needs_little_memory_without_opt_einsum(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without opt_einsum, torch multiplies the factors of a product from left to right."""
    monkeypatch.setattr(torch.backends.opt_einsum, "enabled", False)
    images = make_images(96, count=1)
    (view,) = TTA(sizes=[112]).views(96)
    with torch.profiler.profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profile:
        view(images)
    largest = max(event.cpu_memory_usage for event in profile.events() or [])
    assert 0 < largest < 16 * images.numel() * images.float().element_size()


def test_views_are_every_symmetry_of_every_crop_at_every_size() -> None:
    images = make_images()
    for symmetries, count in (("none", 1), ("flip", 2), ("flips", 4), ("all", 8)):
        for five_crops in (False, True):
            for sizes in ([], [48], [48, 64, 80]):
                views = TTA(symmetries, five_crops, sizes).views(SIDE)  # type: ignore[arg-type]
                assert len(views) == count * (5 if five_crops else 1) * max(1, len(sizes))
                assert len(apply_views(views, images)) == len(views)
                sides = set(sizes) or {56 if five_crops else SIDE}
                assert {tuple(view(images).shape) for view in views} == {(2, side, side, 3) for side in sides}


@pytest.mark.parametrize(
    ("tta", "text"),
    [
        (TTA(), "none"),
        (TTA("flip"), "flip"),
        (TTA("all", sizes=[192]), "all, 192 px"),
        (TTA(five_crops=True), "five crops"),
        (TTA("flips", five_crops=True, sizes=[192, 224]), "flips, five crops, 192 + 224 px"),
    ],
)
def test_str_describes_the_tta(tta: TTA, text: str) -> None:
    assert str(tta) == text


@pytest.mark.parametrize(("size", "five_crops", "highest"), [(31, False, 256), (257, False, 256), (225, True, 224)])
def test_sizes_out_of_range_are_refused(size: int, five_crops: bool, highest: int) -> None:
    message = rf"tta\.sizes: .*32 to {highest} .*found {size}\."
    with pytest.raises(InputError, match=message):
        TTA(sizes=[48, size], five_crops=five_crops).views(SIDE)
    assert TTA(sizes=[32, highest], five_crops=five_crops).views(SIDE)


class Network(nn.Module):
    """A random network that is sensitive to flips and rotations."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)
        )

    def forward(self, image: Tensor) -> Tensor:
        return 5 * self.layers(image.permute(0, 3, 1, 2).float() / 255)  # type: ignore[no-any-return]


@pytest.fixture
def network() -> Network:
    return Network().requires_grad_(False)


@pytest.mark.parametrize("tta", [TTA(), TTA("flip"), TTA("all", five_crops=True, sizes=[48, 80])])
def test_the_mean_is_taken_over_softmaxes(network: Network, tta: TTA) -> None:
    images, views = make_images(), tta.views(SIDE)
    exponentials = [np.exp(network(view(images)).double().numpy()) for view in views]
    expected = np.mean([each / each.sum(1, keepdims=True) for each in exponentials], axis=0)
    found = mean_over_views(network, views, images)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, atol=1e-6)


def test_bfloat16_logits_give_float32_probabilities() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 104, generator=generator).bfloat16()
    found = mean_over_views(lambda _: logits, TTA("flips").views(SIDE), make_images())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().softmax(1), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(4), rtol=0, atol=1e-6)


TURNS: list[Callable[[Tensor], Tensor]] = [
    lambda images: images.rot90(1, (1, 2)),
    lambda images: images.rot90(2, (1, 2)),
    lambda images: images.flip(2),
    lambda images: images.flip(1),
    lambda images: images.transpose(1, 2),
]


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("sizes", [[], [48, 80]])
def test_the_mean_over_all_symmetries_does_not_depend_on_orientation(
    network: Network, turn: Callable[[Tensor], Tensor], sizes: list[int]
) -> None:
    images, views = make_images(), TTA("all", sizes=sizes).views(SIDE)
    alone = network(images).softmax(1), network(turn(images)).softmax(1)
    assert (alone[0] - alone[1]).abs().max() > 0.01  # the network alone depends on the orientation
    expected, found = (mean_over_views(network, views, each) for each in (images, turn(images)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
