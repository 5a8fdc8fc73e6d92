"""Create the optimizer and the schedule of a model from their configured factories."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Callable, Collection, Iterable
from fnmatch import fnmatchcase
from typing import Annotated, Any, cast

import timm.optim
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from pydantic import AfterValidator
from timm.models import group_parameters
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from flowers.errors import InputError
from flowers.settings import NonNegative, PositiveFloat

OptimizerFactory = Callable[[Any], Optimizer]
"""A function from parameters, or from parameter groups, to an optimizer."""

SchedulerFactory = Callable[[Optimizer], LRScheduler]
"""A function from an optimizer to a schedule per step."""


def check_optimizer_name(name: str) -> str:
    """Check the name of one of timm's optimizers, and return it.

    Raises:
        InputError: timm has no such optimizer, or it needs second derivatives, which training does not compute.
    """
    names: list[str] = timm.optim.list_optimizers()
    if name not in names:
        close = difflib.get_close_matches(name.lower(), names, n=3)
        hint = f"Did you mean {' or '.join(close)}?" if close else "timm.optim.list_optimizers() lists them."
        raise InputError(
            f"optimizer.opt={name}: expected the name of one of timm's optimizers, found no such optimizer. {hint}"
        )
    if timm.optim.get_optimizer_info(name).second_order:
        raise InputError(
            f"optimizer.opt={name}: expected an optimizer of first derivatives, found one that needs second "
            "derivatives. Choose another."
        )
    return name


OptimizerName = Annotated[str, AfterValidator(check_optimizer_name)]
"""The name of one of timm's optimizers, which is checked with the other settings, before any data are read."""


def make_timm_optimizer(
    parameters: Iterable[Any], opt: OptimizerName, lr: PositiveFloat, weight_decay: NonNegative, **arguments: Any
) -> Optimizer:
    """Create one of timm's optimizers by its name.

    Args:
        parameters: the model's parameters, or parameter groups, whose own settings take precedence.
        opt: the optimizer's name, as in `timm.optim.list_optimizers()`.
        lr: the learning rate.
        weight_decay: the weight decay of groups without their own.
        arguments: further arguments of the optimizer, such as `betas`.

    Raises:
        InputError: the optimizer needs a package or a device that is not available.
    """
    try:
        made = timm.optim.create_optimizer_v2(parameters, opt=opt, lr=lr, weight_decay=weight_decay, **arguments)
    except (AssertionError, ImportError) as error:  # of optimizers from apex and bitsandbytes
        raise InputError(
            f"optimizer.opt={opt}: expected an optimizer that runs here, found this: {error}. Choose another, or "
            "install what it needs."
        ) from error
    return cast(Optimizer, made)


def configure(
    optimizer: OptimizerFactory, scheduler: SchedulerFactory | None, parameters: Iterable[Any]
) -> OptimizerLRScheduler:
    """Return the value that Lightning expects from `configure_optimizers`, with a schedule per step.

    Args:
        optimizer: the configured factory of the optimizer.
        scheduler: the configured factory of the schedule; None: a constant learning rate.
        parameters: the model's parameters, or parameter groups. A group's `lr_scale` is a factor on its learning rate.

    Raises:
        InputError: the optimizer or the schedule rejects an argument, or the schedule follows a metric, or it sets the
            same rate for groups that should differ.
    """
    made: Optimizer = _make("optimizer", optimizer, parameters)
    for group in made.param_groups:
        _scale_rate(group)
    if scheduler is None:
        return made
    schedule: LRScheduler = _make("scheduler", scheduler, made)
    _check_rates(made, schedule)
    if isinstance(schedule, ReduceLROnPlateau):
        raise InputError(
            "scheduler._target_: expected a schedule by step, found ReduceLROnPlateau, which follows a metric. "
            "Choose scheduler=cosine, or another schedule of torch.optim.lr_scheduler."
        )
    return {"optimizer": made, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _scale_rate(group: dict[str, Any]) -> None:
    """Apply a group's `lr_scale` to its learning rate. AdamW and SGD decay its weights as much as those of others.

    Both multiply the weight decay by the rate, so it is divided by the scale here: else the first layers would hardly
    decay. On XLA a decay below the resolution of float32 would also change the step's program.
    """
    scale = group.get("lr_scale", 1.0)
    group["lr"] *= scale
    if "weight_decay" in group:
        group["weight_decay"] /= scale


def _check_rates(optimizer: Optimizer, schedule: object) -> None:
    """Raise `InputError` if a schedule has set the same peak for groups with different rates, as OneCycleLR does."""
    peaks = [group.get("initial_lr", group["lr"]) / group.get("lr_scale", 1.0) for group in optimizer.param_groups]
    if not all(math.isclose(peak, peaks[0], rel_tol=1e-6) for peak in peaks):
        raise InputError(
            f"scheduler: expected a schedule that keeps a rate for each group, found {type(schedule).__name__}, "
            "which sets one for all. Choose scheduler=cosine, or set model.layer_decay=1 model.head_lr_scale=1."
        )


def _make(key: str, factory: Callable[[Any], Any], argument: Any) -> Any:
    """Call the factory of an optimizer or a schedule. `key` is its setting, for messages."""
    try:
        return factory(argument)
    except (TypeError, ValueError) as error:  # an unknown argument, or a wrong type or range
        target: Any = factory
        while isinstance(target, functools.partial):
            target = target.func
        name = getattr(target, "__name__", target)
        raise InputError(
            f"{key}: expected settings that {name} takes, found this: {error}. Add settings with +{key}.NAME=VALUE, "
            f"remove them with ~{key}.NAME."
        ) from error


def parameter_groups(
    model: nn.Module, heads: Collection[str] = (), layer_decay: float = 1.0, head_lr_scale: float = 1.0
) -> list[dict[str, Any]]:
    """Group trained parameters by learning rate and by weight decay.

    Biases, normalisation and the parameters in the model's `no_weight_decay()`, such as position embeddings and class
    tokens, have no weight decay.

    Args:
        model: a timm model.
        heads: the names of its classification layers.
        layer_decay: the ratio of each layer's rate to that of the next layer. 1: equal rates.
        head_lr_scale: a factor on the rate of the heads.

    Returns:
        Groups for an optimizer. `lr_scale` is a factor on the optimizer's `lr`, which `configure` applies.
    """
    no_weight_decay: Any = getattr(model, "no_weight_decay", tuple)
    no_decay_patterns = no_weight_decay()
    scales = layer_scales(model, layer_decay)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        in_head = name.rpartition(".")[0] in heads
        scale = scales.get(name, 1.0) * (head_lr_scale if in_head else 1.0)
        no_decay = parameter.ndim <= 1 or any(fnmatchcase(name, pattern) for pattern in no_decay_patterns)
        group = groups.setdefault((scale, no_decay), {"params": []} | ({"weight_decay": 0.0} if no_decay else {}))
        group["params"].append(parameter)
        if scale != 1:
            group["lr_scale"] = scale
    return [groups[key] for key in sorted(groups, key=lambda key: (-key[0], key[1]))]


def layer_scales(model: nn.Module, decay: float) -> dict[str, float]:
    """Return the factor on the learning rate of each parameter by name: 1 in the last layer, less in earlier ones.

    The layers are timm's. Clark et al. 2020, arXiv:2003.10555, section 3.1; Bao et al. 2022, arXiv:2106.08254.

    Raises:
        InputError: timm does not know the model's layers.
    """
    if decay == 1:
        return {}
    matcher = getattr(model, "group_matcher", None)
    if matcher is None:
        raise InputError(
            f"model.layer_decay={decay}: expected a backbone whose layers timm knows, found {type(model).__name__} "
            "without group_matcher(). Set model.layer_decay=1."
        )
    layers: dict[str, int] = group_parameters(model, matcher(coarse=False), reverse=True)
    last = max(layers.values())
    return {name: decay ** (last - layer) for name, layer in layers.items()}
