"""Compose and check a command's configuration as the command does, without running it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from benchmarks.loader.run import LoaderSettings
from benchmarks.recipes.plan import RecipeSettings
from benchmarks.step.run import StepSettings
from flowers.cross_validation.plan import CrossValidationSettings
from flowers.ensembling.ensemble import EnsembleSettings
from flowers.inference.choose import ChooseSettings
from flowers.inference.evaluate import EvaluateSettings
from flowers.inference.predict import PredictSettings
from flowers.preparation.plan import FolderSettings
from flowers.preparation.verify import VerifySettings
from flowers.reporting.wandb_sync import SyncSettings
from flowers.reporting.wandb_workspace import DashboardSettings
from flowers.search.search import OWN, SearchSettings
from flowers.search.search import RULES as SEARCH_RULES
from flowers.settings import load_settings
from flowers.training.train import RULES, TrainSettings

CONFIGS = Path(__file__).parents[2] / "configs"
GROUPS = [
    f"{group}={path.stem}"
    for group in (
        *(
            "data",
            "data/augment",
            "data/eval",
            "model",
            "trainer",
            "optimizer",
            "scheduler",
            "monitor",
            "callbacks",
            "logger",
        ),
        *("experiment", "debug"),
    )
    for path in sorted((CONFIGS / group).glob("*.yaml"))
    if path.stem != "default" or group in ("callbacks", "logger", "debug")
]
COMMANDS: dict[str, type[Any]] = {
    "train": TrainSettings,
    "evaluate": EvaluateSettings,
    "predict": PredictSettings,
    "choose": ChooseSettings,
    "search": SearchSettings,
    "ensemble": EnsembleSettings,
    "cross_validate": CrossValidationSettings,
    "dashboard": DashboardSettings,
    "sync": SyncSettings,
    "prepare_folder": FolderSettings,
    "prepare_verify": VerifySettings,
    "benchmark_step": StepSettings,
    "benchmark_loader": LoaderSettings,
    "benchmark_recipes": RecipeSettings,
}


def compose_config(name: str, *overrides: str) -> DictConfig:
    """Compose `configs/NAME.yaml`, with an output directory if Hydra gives the command one."""
    output = ["paths.output_dir=out"] if name == "search" or "paths" in COMMANDS[name].__dataclass_fields__ else []
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(name, [*overrides, *output])


def compose_values(name: str, *overrides: str) -> dict[str, Any]:
    """Compose a configuration and return its values, with references resolved."""
    return resolve_values(compose_config(name, *overrides))


def resolve_values(config: DictConfig) -> dict[str, Any]:
    """Return a configuration's values, with references resolved."""
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    return values


def check(name: str, *overrides: str) -> Any:
    """Compose a command's configuration and return its checked settings, as `check_config` does."""
    return check_config(name, compose_config(name, *overrides))


def check_config(name: str, config: DictConfig) -> Any:
    """Check a command's configuration and return its settings, with a placeholder for each missing value.

    XLA's strategy is replaced by `auto`, as this process does not import it.

    Raises:
        InputError: the configuration is invalid.
    """
    config = copy.deepcopy(config)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, ["DIR"] if key == "runs" else "DIR")
    if "flowers.training.xla" in str(OmegaConf.select(config, "trainer.strategy._target_")):
        config.trainer.strategy = "auto"
    if name == "search":  # its own settings beside those of a training
        values = resolve_values(config)
        training = OmegaConf.create({key: value for key, value in values.items() if key not in OWN})
        load_settings(TrainSettings, training, RULES)
        own = OmegaConf.create({key: value for key, value in values.items() if key in OWN})
        return load_settings(SearchSettings, own, SEARCH_RULES)
    return load_settings(COMMANDS[name], config, RULES if "trainer" in config else {})
