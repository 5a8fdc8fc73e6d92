"""Check that a run's config.yaml only creates objects of trusted classes.

A run directory may come from somebody else. Hydra calls whatever its configuration names, and references may read
the environment. Both are checked before anything is created. Some packages' classes are trusted, and so is everything
that the user's own configuration files name: those in `configs/` and in a `--config-dir`. `trust=true` skips the check.
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
"""The packages that may define a class."""

ALLOWED_BASES = (L.LightningDataModule, nn.Module, BasicTransform, BaseCompose, Garden, Optimizer, LRScheduler)
"""The base classes of allowed classes. No functions: some in these packages call any other, or load pickles."""

INSTANTIATED_GROUPS = ("data", "model")
"""The groups of a training's configuration that are instantiated again when its run is used."""

UNUSED_GROUPS = ("callbacks", "logger")
"""The groups that are not instantiated again, and may contain anything."""

FILE_ARGUMENTS = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""The arguments of `timm.create_model` that name a file to load. Older versions unpickle it."""

_REFERENCE = re.compile(
    r"\$\{(?:(?![.\[]*(?:callbacks|logger)\b)[.\w\[\]]+|oc\.env:(?:FLOWERS_CACHE|FLOWERS_KAGGLE|XLA_PERSISTENT_CACHE_PATH)(?:,\s*(?:\"[^\"$]*\"|'[^'$]*'|null))?)\}"
)
"""An allowed reference: to another checked setting, or to one of the environment variables that configs/ reads."""


_TARGET = re.compile(r"^\s*(?:- +)?_target_: *[\"']?([\w.]+)", re.MULTILINE)


TRUST = "If this configuration is your own, or you have read it, set trust=true."
"""The advice for commands that have this setting."""


def check_trusted(config: DictConfig, path: Path, fix: str = TRUST) -> None:
    """Raise `InputError` if an untrusted configuration contains anything that is not allowed.

    Args:
        config: the configuration.
        path: the configuration's file, for messages.
        fix: the advice to the user, for messages.
    """
    try:
        _check(config, path)
    except _Refused as error:
        raise InputError(f"{error} {fix}") from error


class _Refused(Exception):
    """An error whose message describes what is refused, without advice."""


def _check(config: DictConfig, path: Path) -> None:
    used = {name: node for name, node in _to_dict(config).items() if name not in UNUSED_GROUPS}
    for key, value in _iterate_strings(used, ""):
        if "${" in _REFERENCE.sub("", value):
            raise _make_refusal(path, key, value, "a reference to another setting", "which would be evaluated")
    for group in INSTANTIATED_GROUPS:
        try:
            made = OmegaConf.to_container(config[group], resolve=True)
        except OmegaConfBaseException as error:
            raise InputError(f"{path}: expected references that can be resolved, found this: {error}") from error
        for key, value in _iterate_strings(made, group):
            if "${" in value:  # Hydra would resolve it again
                raise _make_refusal(path, key, value, "a value", "which would be evaluated")
            if key.rpartition(".")[2] == "_target_" and not is_known(value):
                expected = f"a data set, model or transform of {', '.join(PACKAGES)}"
                raise _make_refusal(path, key, value, expected, "which would be run")
    arguments = config.model.get("backbone_arguments") or {}
    for name in FILE_ARGUMENTS:
        if name in arguments:
            key = f"model.backbone_arguments.{name}"
            raise _make_refusal(path, key, str(arguments[name]), "none", "from which code may be loaded")


def is_known(target: str) -> bool:
    """Return whether a target may be instantiated.

    This is so if one of the user's own configuration files names it. It is also so for a subclass of `ALLOWED_BASES`
    that is defined in one of `PACKAGES` and named by its path there.
    """
    if target in _find_own_targets():
        return True
    if not _is_in_packages(target):
        return False
    try:
        found = get_object(target)
    except Exception:  # an import may raise anything
        return False
    # Modules also name what they import: flowers.data.workers.os.system, say.
    return isinstance(found, type) and issubclass(found, ALLOWED_BASES) and _is_in_packages(found.__module__)


def _find_own_targets() -> set[str]:
    """Return the targets in the configuration files of the running command; none outside a command."""
    if not HydraConfig.initialized():
        return set()
    sources = [source for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]
    files = [file for source in sources for file in Path(source.path).rglob("*.yaml")]
    return {target for file in files for target in _TARGET.findall(file.read_text(encoding="utf-8"))}


def _is_in_packages(name: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in PACKAGES)


def _to_dict(config: DictConfig) -> dict[str, Any]:
    values: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return values


def _iterate_strings(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield every string in nested containers with its dotted key. Every `_target_` counts as a string."""
    if isinstance(node, dict):
        for name, value in node.items():
            place = f"{key}.{name}" if key else str(name)
            yield from _iterate_strings(str(value) if name == "_target_" else value, place)
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _iterate_strings(value, f"{key}.{number}")
    elif isinstance(node, str):
        yield key, node


def _make_refusal(path: Path, key: str, found: str, expected: str, harm: str) -> _Refused:
    return _Refused(f"{path}: {key}: expected {expected}, found {found}, {harm}.")
