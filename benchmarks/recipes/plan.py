"""List the trainings of a configuration."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from benchmarks.recipes.task import RECIPES, Recipe, Task
from flowers.data.layout import find_shards
from flowers.errors import InputError
from flowers.settings import Paths, Positive, Seed

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class RecipeData:
    """The data set to train on: a directory `root` in Kaggle's layout."""

    root: str


@dataclass(frozen=True, slots=True)
class Ablation:
    """Variants of the default recipe.

    base: the overrides that all of them share.
    variants: the further overrides of each variant, by name.
    """

    base: list[str]
    variants: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class RecipeSettings:
    """The settings of `python -m benchmarks.recipes`; configs/benchmark_recipes.yaml explains each of them."""

    data: RecipeData
    paths: Paths
    image_size: Positive
    epochs: Positive
    seeds: Annotated[list[Seed], Field(min_length=1)]
    recipes: list[Recipe]
    overrides: list[str]
    variants: dict[str, list[str]] | None
    ablation: Ablation | None
    timm_script: str | None
    reference: str | None
    force: bool
    results: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The trainings to run, and how to compare them.

    tasks: the trainings: all recipes with the first seed, then all with the next.
    reference: the name of the recipe that the others are compared with.
    absent: the recipes that cannot run here, with the reason and the fix.
    """

    tasks: list[Task]
    reference: str
    absent: Mapping[str, str] = field(default_factory=dict)


def make_plan(settings: RecipeSettings, ablation_name: str | None) -> Plan:
    """Plan the trainings of a configuration.

    Args:
        settings: the configuration.
        ablation_name: the name of the chosen ablation, or None.

    Raises:
        InputError: the data set, the resolution or timm's script does not exist, or a name is taken or not allowed.
    """
    root = Path(settings.data.root)
    for split in ("train", "val"):
        find_shards(root, split, settings.image_size)
    script = _find_timm_script(settings)
    absent = _find_absent(settings)
    present = [name for name in settings.recipes if name not in absent]
    runs: dict[str, tuple[Recipe, Sequence[str]]] = {
        name: (name, settings.overrides if name == "default" else ()) for name in present
    }
    variants, base = collect_variants(settings, ablation_name)
    runs.update({name: ("default", overrides) for name, overrides in variants.items()})
    tasks = [
        Task(
            name,
            recipe,
            root,
            settings.image_size,
            settings.epochs,
            seed,
            Path(settings.paths.cache_dir).expanduser(),
            tuple(overrides),
            script if recipe == "timm_train" else None,
            Path(settings.results).absolute(),
        )
        for seed in settings.seeds
        for name, (recipe, overrides) in runs.items()
    ]
    return Plan(_keep_needed_runs(tasks), settings.reference or base or "plain_loop", absent)


def _keep_needed_runs(tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks, of which those that others refer to keep their runs.

    Raises:
        InputError: a task refers to a run that is not trained before it.
    """
    before: set[str] = set()
    for task in tasks:
        for name in task.needs:
            if name not in before:
                raise InputError(
                    f"{task.name}: expected RUN_OF({name}) to name the default recipe or a variant that is listed "
                    f"before, found {', '.join(sorted(before)) or 'none'}."
                )
        before |= {task.name} if task.recipe == "default" else set()
    needed = {name for task in tasks for name in task.needs}
    return [replace(task, keeps_run=task.name in needed) for task in tasks]


def collect_variants(
    settings: RecipeSettings,
    ablation_name: str | None,
) -> tuple[dict[str, list[str]], str | None]:
    """Return the overrides of each variant of the default recipe, and the name of the ablation's base, if any.

    The variants of an ablation are named `ABLATION.VARIANT`. A base without overrides is the default recipe itself.

    Raises:
        InputError: a name is that of a recipe, or has characters that do not belong in file names.
    """
    variants = {name: [*settings.overrides, *overrides] for name, overrides in (settings.variants or {}).items()}
    for name in variants:
        if name in RECIPES or not _NAME.fullmatch(name):
            raise InputError(
                f"variants.{name}: expected a name of letters, digits, '_', '-' and '.', other than those of the "
                f"recipes ({', '.join(RECIPES)}). Choose another."
            )
    if settings.ablation is None or ablation_name is None:
        return variants, None
    shared = [*settings.overrides, *settings.ablation.base]
    base = f"{ablation_name}.base" if settings.ablation.base else "default"
    variants[base] = shared
    for name, overrides in settings.ablation.variants.items():
        variants[f"{ablation_name}.{name}"] = [*shared, *overrides]
    return variants, base


def _find_absent(settings: RecipeSettings) -> dict[str, str]:
    """Return the recipes that cannot run here, with the reason and the fix."""
    if "fastai" not in settings.recipes:
        return {}
    if importlib.util.find_spec("fastai") is None:
        return {"fastai": "it is not installed: pip install fastai"}
    if settings.epochs == 1:
        return {"fastai": "its fine_tune takes at least two epochs: set epochs=2"}
    return {}


def _find_timm_script(settings: RecipeSettings) -> Path | None:
    if "timm_train" not in settings.recipes:
        return None
    if settings.timm_script is None or not Path(settings.timm_script).is_file():
        raise InputError(
            f"timm_script={settings.timm_script or 'null'}: expected the path of timm's train.py, found none. "
            "Fetch it: git clone https://github.com/huggingface/pytorch-image-models, and set "
            "timm_script=pytorch-image-models/train.py; or leave timm_train out of recipes."
        )
    return Path(settings.timm_script).resolve()
