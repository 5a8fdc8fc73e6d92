"""Learning-rate schedules by step: pure functions of the step, and what makes a scheduler of them.

Each gives the factor on the optimiser's `lr`, which is therefore the peak.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from flowers.settings import Fraction, NonNegative


def takes_run_length(schedule: Callable[..., Any]) -> bool:
    """Tell whether a schedule has a parameter for the length of the run that is not set yet."""
    return bool(_unset_parameters(schedule) & {"steps_per_epoch", "epochs", "total_steps"})


def with_run_length(schedule: Callable[..., Any], steps_per_epoch: int, epochs: float) -> Callable[..., Any]:
    """Give a schedule the length of the run, as far as its signature has a name for it and nothing was set there.

    The names are `steps_per_epoch`, `epochs` and `total_steps`. torch's own schedules, other than `OneCycleLR`, have
    none of them.
    """
    length = {
        "steps_per_epoch": steps_per_epoch,
        "epochs": epochs,
        "total_steps": max(1, round(steps_per_epoch * epochs)),
    }
    unset = _unset_parameters(schedule)
    return functools.partial(schedule, **{name: value for name, value in length.items() if name in unset})


def _unset_parameters(schedule: Callable[..., Any]) -> set[str]:
    given = set[str]()
    while isinstance(schedule, functools.partial):
        given |= schedule.keywords.keys()
        schedule = schedule.func
    return inspect.signature(schedule).parameters.keys() - given


def warmup(step: float, steps: float, start: float) -> float:
    """Linear from `start` at step 0 to 1 at `steps`, then 1."""
    return 1.0 if step >= steps else start + (1 - start) * step / steps


def cosine(step: float, steps: float, end: float) -> float:
    """Half a cosine from 1 at step 0 to `end` at `steps`, then `end` (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    progress = min(1.0, max(0.0, step / steps)) if steps > 0 else 1.0
    return end + (1 - end) * (1 + math.cos(math.pi * progress)) / 2


def warmup_cosine(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: float,
    warmup_epochs: NonNegative,
    start: Fraction,
    end: Fraction,
) -> LambdaLR:
    """Warm up linearly from `start` over `warmup_epochs`, then half a cosine down to `end` at the last step.

    `start` and `end` are factors on the peak. A warm-up longer than half the run is cut to half.
    """
    total = steps_per_epoch * epochs
    rise = min(steps_per_epoch * warmup_epochs, total / 2)
    return LambdaLR(optimizer, lambda step: warmup(step, rise, start) * cosine(step - rise, total - rise, end))


def warmup_decay(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: float,
    warmup_epochs: NonNegative,
    start: Fraction,
    decay: Annotated[float, Field(gt=0, le=1)],
) -> LambdaLR:
    """The competition's schedule: warm up linearly over `warmup_epochs`, then times `decay` with each epoch.

    `start` is a factor on the peak: 0.025 for 1e-5 to 4e-4. How many epochs follow does not change it.
    """

    def factor(step: int) -> float:
        epoch = step / steps_per_epoch
        return warmup(epoch, warmup_epochs, start) * math.pow(decay, max(0.0, epoch - warmup_epochs))

    return LambdaLR(optimizer, factor)
