"""The recipes in configs/data/augment compose with every data set and give images that fit a batch."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest

from flowers.data.transforms import SeededTransform
from flowers.instantiate import instantiate
from tests.helpers.configuration import CONFIGS, compose_values

RECIPES = sorted(path.stem for path in (CONFIGS / "data" / "augment").glob("*.yaml"))
DATA_SETS = sorted(path.stem for path in (CONFIGS / "data").glob("*.yaml") if path.stem != "default")
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
NOISE = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
IMAGE = cv2.resize(NOISE, (96, 96), interpolation=cv2.INTER_CUBIC)


def recipe(name: str, size: int) -> SeededTransform:
    """Return a recipe for images of this size, as the data module creates it."""
    data = compose_values("train", f"data/augment={name}", f"data.train_size={size}")["data"]
    return SeededTransform([instantiate("data.train_transform", node) for node in data["train_transform"]], seed=1)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_depends_only_on_seed_and_index_and_gives_train_size(name: str) -> None:
    once = recipe(name, 48)
    again = pickle.loads(pickle.dumps(once))
    indices = [(0, number, 0) for number in range(60)]
    images = [once(IMAGE, index) for index in indices]
    assert {(image.dtype.name, image.shape) for image in images} == {("uint8", (48, 48, 3))}
    assert [image.tobytes() for image in images] == [again(IMAGE, index).tobytes() for index in reversed(indices)][::-1]
    distinct = len({image.tobytes() for image in images})
    assert {"none": distinct == 1, "flip": distinct == 2}.get(name, distinct > 50)


@pytest.mark.parametrize("choice", [*(f"data={name}" for name in DATA_SETS), *(f"experiment={n}" for n in EXPERIMENTS)])
def test_a_recipe_replaces_the_transforms_of_every_data_set_and_experiment(choice: str) -> None:
    data = compose_values("train", choice, "data/augment=flip", "data.root=somewhere")["data"]
    kinds = [node["_target_"].rpartition(".")[2] for node in data["train_transform"]]
    assert kinds == ["Resize", "HorizontalFlip"]
    assert data["train_transform"][0]["height"] == data["train_size"]


def test_the_default_recipe_is_light() -> None:
    assert compose_values("train")["data"] == compose_values("train", "data/augment=light")["data"]


@pytest.mark.parametrize(("name", "rectangles"), [("medium", False), ("erasing", True)])
def test_erasing_changes_about_half_of_the_images(name: str, rectangles: bool) -> None:
    # A uniform image stays uniform under every other transform.
    grey = np.full((64, 64, 3), 128, np.uint8)
    transform = recipe(name, 64)
    images = [transform(grey, (0, number, 0)) for number in range(200)]
    erased = sum(len(np.unique(image)) > 1 for image in images)
    assert 70 < erased < 130 if rectangles else erased == 0
