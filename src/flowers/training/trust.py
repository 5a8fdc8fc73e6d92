"""Check what a run's config.yaml would do before its owner is trusted: make objects of known classes, no more.

A run directory may come from somebody else. Hydra calls whatever its configuration names, and references may read
the environment, so both are checked before anything is made of it. Known are the classes of some packages, and what
the user's own configuration files name: those in `configs/` and in a `--config-dir`. `trust=true` leaves the check out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from albumentations import BaseCompose, BasicTransform
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from flowers.errors import InputError
from flowers.synthetic import Garden

PACKAGES = (__name__.partition(".")[0], "albumentations", "timm", "lightning", "torch.optim")
"""Where a class may be defined."""

KINDS = (L.LightningDataModule, nn.Module, BasicTransform, BaseCompose, Garden, Optimizer, LRScheduler)
"""What it may be. Not any function: the packages have some that call any other, or load pickles."""

MADE = ("data", "model")
"""The groups of a training's configuration that are made again when its run is used."""

UNUSED = ("callbacks", "logger")
"""The groups that are not, and that may hold anything."""

LOADERS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of `timm.create_model` that name a file to load, which older versions unpickle."""

_REFERENCE = re.compile(
    r"\$\{(?:(?![.\[]*(?:callbacks|logger)\b)[.\w\[\]]+|oc\.env:(?:FLOWERS_CACHE|FLOWERS_KAGGLE|XLA_PERSISTENT_CACHE_PATH)(?:,\s*(?:\"[^\"$]*\"|'[^'$]*'|null))?)\}"
)
"""A reference to another setting that is checked, or to one of the variables that configs/ reads."""


_TARGET = re.compile(r"^\s*(?:- +)?_target_: *[\"']?([\w.]+)", re.MULTILINE)


TRUST = "If this configuration is your own, or you have read it, set trust=true."
"""The fix, where a command has that setting."""


def check_trusted(config: DictConfig, path: Path, fix: str = TRUST) -> None:
    """Raise `InputError` for what a configuration read from `path` must not do unless it is trusted.

    Args:
        config: the configuration.
        path: its file, for messages.
        fix: what the user can do about it, for messages.
    """
    try:
        _check(config, path)
    except _Refused as error:
        raise InputError(f"{error} {fix}") from error


class _Refused(Exception):
    """Says what is refused, without a fix."""


def _check(config: DictConfig, path: Path) -> None:
    for key, value in _strings({name: node for name, node in _raw(config).items() if name not in UNUSED}, ""):
        if "${" in _REFERENCE.sub("", value):
            raise _refused(path, key, value, "a reference to another setting", "which would be evaluated")
    for group in MADE:
        try:
            made = OmegaConf.to_container(config[group], resolve=True)
        except OmegaConfBaseException as error:
            raise InputError(f"{path}: expected references that can be resolved, found this: {error}") from error
        for key, value in _strings(made, group):
            if "${" in value:  # Hydra would resolve it once more
                raise _refused(path, key, value, "a value", "which would be evaluated")
            if key.rpartition(".")[2] == "_target_" and not is_known(value):
                known = ", ".join(PACKAGES)
                raise _refused(path, key, value, f"a data set, model or transform of {known}", "which would be run")
    arguments = config.model.get("backbone_arguments") or {}
    for name in LOADERS:
        if name in arguments:
            key = f"model.backbone_arguments.{name}"
            raise _refused(path, key, str(arguments[name]), "none", "from which code may be loaded")


def is_known(target: str) -> bool:
    """Tell whether a target is a class of a known kind, defined in a known package and named by it.

    Or whether one of the user's own configuration files names it.
    """
    if target in _own_targets():
        return True
    if not _is_within(target):
        return False
    try:
        found = get_object(target)
    except Exception:  # an import may raise anything
        return False
    # Modules also name what they import: flowers.data.workers.os.system, say.
    return isinstance(found, type) and issubclass(found, KINDS) and _is_within(found.__module__)


def _own_targets() -> set[str]:
    """Return the targets in the configuration files of the command that runs; none outside a command."""
    if not HydraConfig.initialized():
        return set()
    sources = [source for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    files = [file for source in sources for file in Path(source.path).rglob("*.yaml")]
    return {target for file in files for target in _TARGET.findall(file.read_text(encoding="utf-8"))}


def _is_within(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in PACKAGES)


def _raw(config: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return values


def _strings(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string in nested containers, with its dotted key; a `_target_` that is none counts as well."""
    if isinstance(node, dict):
        for name, value in node.items():
            place = f"{key}.{name}" if key else str(name)
            yield from _strings(str(value) if name == "_target_" else value, place)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _strings(value, f"{key}.{number}")
    elif isinstance(node, str):
        yield key, node


def _refused(path: Path, key: str, found: str, expected: str, harm: str) -> _Refused:
    return _Refused(f"{path}: {key}: expected {expected}, found {found}, {harm}.")
