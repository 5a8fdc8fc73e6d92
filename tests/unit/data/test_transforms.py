"""Augmentation is a function of image and seed."""

from __future__ import annotations

import pickle

import albumentations as A
import numpy as np

from flowers.data.transforms import SeededTransform

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def transform() -> SeededTransform:
    return SeededTransform([A.RandomResizedCrop((32, 32)), A.HorizontalFlip(), A.RandomBrightnessContrast()], seed=1)


def test_the_seed_decides_and_nothing_else() -> None:
    first, second = transform(), transform()
    second(IMAGE, (9, 9, 9))  # what was drawn before does not matter
    np.testing.assert_array_equal(first(IMAGE, (1, 2, 3)), second(IMAGE, (1, 2, 3)))
    results = {first(IMAGE, (1, epoch, 3)).tobytes() for epoch in range(10)}
    assert len(results) == 10


def test_transforms_draw_independently_of_each_other() -> None:
    flips = SeededTransform([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], seed=0)
    results = {flips(IMAGE, (0, number, 0)).tobytes() for number in range(64)}
    assert len(results) == 4


def test_every_transform_of_albumentations_draws_from_the_draw_alone() -> None:
    # Those that need more than an image, or a metadata of its own, are left out.
    composed = [
        A.OneOf([A.GaussianBlur(p=1), A.MedianBlur(p=1)], p=0.7),
        A.SomeOf([A.D4(), A.Transpose(), A.ColorJitter(), A.ToGray()], n=2),
        A.CoarseDropout(),
        A.GridDistortion(),
        A.RandomRain(),
        A.ISONoise(),
        A.Posterize(),
        A.PlanckianJitter(sampling_method="gaussian", p=1),  # one `gauss`, which makes two numbers at once
        A.RandomGridShuffle(),
        A.RandomCrop(48, 48),
    ]
    once = SeededTransform(composed, seed=2)
    again = pickle.loads(pickle.dumps(once))
    forwards = [once(IMAGE, (0, number, 0)).tobytes() for number in range(20)]
    backwards = [again(IMAGE, (0, number, 0)).tobytes() for number in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 20


def test_draws_are_spread_evenly() -> None:
    flip = SeededTransform([A.HorizontalFlip(p=0.5)], seed=3)
    flipped = sum(flip(IMAGE, (epoch, number, 0)) is not IMAGE for epoch in range(20) for number in range(100))
    assert 900 < flipped < 1100
