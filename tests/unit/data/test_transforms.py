"""Augmentation depends only on the image, the seed and the sample index."""

from __future__ import annotations

import pickle

import albumentations as A
import cv2
import numpy as np
import pytest
import timm
from PIL import Image as Pillow
from timm.data import create_transform, resolve_data_config

from flowers.data.transforms import SeededTransform, TimmCenterCrop
from flowers.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def transform() -> SeededTransform:
    return SeededTransform([A.RandomResizedCrop((32, 32)), A.HorizontalFlip(), A.RandomBrightnessContrast()], seed=1)


def test_the_result_depends_only_on_image_seed_and_index() -> None:
    first, second = transform(), transform()
    second(IMAGE, (9, 9, 9))  # earlier calls do not matter
    np.testing.assert_array_equal(first(IMAGE, (1, 2, 3)), second(IMAGE, (1, 2, 3)))
    results = {first(IMAGE, (1, epoch, 3)).tobytes() for epoch in range(10)}
    assert len(results) == 10


def test_transforms_are_random_independently_of_each_other() -> None:
    flips = SeededTransform([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], seed=0)
    results = {flips(IMAGE, (0, number, 0)).tobytes() for number in range(64)}
    assert len(results) == 4


def test_albumentations_transforms_depend_only_on_the_sample_index() -> None:
    # Transforms that need more than an image, or metadata of their own, are left out.
    composed = [
        A.OneOf([A.GaussianBlur(p=1), A.MedianBlur(p=1)], p=0.7),
        A.SomeOf([A.D4(), A.Transpose(), A.ColorJitter(), A.ToGray()], n=2),
        A.CoarseDropout(),
        A.GridDistortion(),
        A.RandomRain(),
        A.ISONoise(),
        A.Posterize(),
        A.PlanckianJitter(sampling_method="gaussian", p=1),  # calls `gauss`, which makes two numbers at once
        A.RandomGridShuffle(),
        A.RandomCrop(48, 48),
    ]
    once = SeededTransform(composed, seed=2)
    again = pickle.loads(pickle.dumps(once))
    forwards = [once(IMAGE, (0, number, 0)).tobytes() for number in range(20)]
    backwards = [again(IMAGE, (0, number, 0)).tobytes() for number in reversed(range(20))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 20


def test_random_choices_are_spread_evenly() -> None:
    flip = SeededTransform([A.HorizontalFlip(p=0.5)], seed=3)
    flipped = sum(flip(IMAGE, (epoch, number, 0)) is not IMAGE for epoch in range(20) for number in range(100))
    assert 900 < flipped < 1100


@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "test_vit", "resnet50.tv_in1k", "resnet50.a1_in1k"])
@pytest.mark.parametrize("size", [48, 100])
def test_the_evaluation_crop_matches_timm(backbone: str, size: int) -> None:
    image = cv2.resize(IMAGE[:12, :12], (96, 96), interpolation=cv2.INTER_CUBIC)
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(backbone).to_dict(), use_test_size=True)
    chosen = {key: config[key] for key in ("interpolation", "crop_pct", "crop_mode")}
    timms = create_transform((3, size, size), mean=(0, 0, 0), std=(1, 1, 1), **chosen)
    expected = timms(Pillow.fromarray(image)).permute(1, 2, 0).numpy() * 255
    found = SeededTransform([TimmCenterCrop(backbone, size)], seed=0)(image, (0, 0, 0))
    assert (found.dtype, found.shape) == (np.uint8, (size, size, 3))
    assert np.abs(expected - found).mean() < 1.5  # a crop that is off by one pixel: 9


def test_a_backbone_without_a_data_config_is_refused() -> None:
    with pytest.raises(InputError, match="no_such_backbone"):
        TimmCenterCrop("no_such_backbone", 48)
