"""Make the optimizer and the schedule of a model from their configured factories."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from flowers.errors import InputError

OptimizerFactory = Callable[[Any], Optimizer]
"""Makes an optimizer from parameters, or from parameter groups."""

SchedulerFactory = Callable[[Optimizer], LRScheduler]
"""Makes a schedule by step from an optimizer."""


def configure(
    optimizer: OptimizerFactory, scheduler: SchedulerFactory | None, parameters: Iterable[Any]
) -> OptimizerLRScheduler:
    """Return what Lightning expects of `configure_optimizers`, with a schedule by step.

    Args:
        optimizer: the configured factory.
        scheduler: the same; None: a constant learning rate.
        parameters: the model's, or groups of them.

    Raises:
        InputError: an argument is out of the range that the optimizer or the schedule takes.
    """
    made: Optimizer = _make("optimizer", optimizer, parameters)
    if scheduler is None:
        return made
    schedule: LRScheduler = _make("scheduler", scheduler, made)
    if isinstance(schedule, ReduceLROnPlateau):
        raise InputError(
            "scheduler._target_: expected a schedule by step, found ReduceLROnPlateau, which follows a metric. "
            "Choose scheduler=cosine, or another schedule of torch.optim.lr_scheduler."
        )
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _make(key: str, factory: Callable[[Any], Any], argument: Any) -> Any:
    """Call an optimizer's or a schedule's factory; `key` is where it is configured."""
    try:
        return factory(argument)
    except (TypeError, ValueError) as error:  # an argument that it does not take, or of another type or range
        target: Any = factory
        while isinstance(target, functools.partial):
            target = target.func
        name = getattr(target, "__name__", target)
        raise InputError(
            f"{key}: expected settings that {name} takes, found this: {error}. Add settings with +{key}.NAME=VALUE, "
            f"remove them with ~{key}.NAME."
        ) from error


def parameter_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Split parameters into matrices and what weight decay would only harm.

    That is biases, normalisation and what the model names itself: positions, class tokens.
    """
    no_weight_decay: Any = getattr(model, "no_weight_decay", tuple)
    spared = no_weight_decay()
    groups: list[dict[str, Any]] = [{"params": []}, {"params": [], "weight_decay": 0.0}]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            spare = parameter.ndim <= 1 or any(fnmatchcase(name, pattern) for pattern in spared)
            groups[spare]["params"].append(parameter)
    return groups
