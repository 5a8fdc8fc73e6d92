"""Learning-rate schedules per step: pure functions of the step, and factories of schedulers.

Each schedule returns a factor on the optimizer's `lr`, which is therefore the peak.
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
    """Return whether a schedule has an unset parameter for the length of the run."""
    return bool(_unset_parameters(schedule) & {"steps_per_epoch", "epochs", "total_steps"})


def with_run_length(schedule: Callable[..., Any], steps_per_epoch: int, epochs: float) -> Callable[..., Any]:
    """Return a schedule with its unset parameters for the length of the run filled in.

    These are `steps_per_epoch`, `epochs` and `total_steps`. Of torch's own schedules only `OneCycleLR` has them.
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
    """Return a factor that rises linearly from `start` at step 0 to 1 at `steps`, and then stays 1."""
    return 1.0 if step >= steps else start + (1 - start) * step / steps


def cosine(step: float, steps: float, end: float) -> float:
    """Return a factor that falls by half a cosine from 1 at step 0 to `end` at `steps`, and then stays `end`.

    Loshchilov & Hutter 2017, arXiv:1608.03983.
    """
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
    """Warm up linearly from `start` over `warmup_epochs`, then decay by half a cosine to `end` at the last step.

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
    """Warm up linearly over `warmup_epochs`, then multiply by `decay` in each epoch: the competition's schedule.

    `start` is a factor on the peak: 0.025 for a warm-up from 1e-5 to 4e-4. The schedule does not depend on the number
    of epochs.
    """

    def factor(step: int) -> float:
        epoch = step / steps_per_epoch
        return warmup(epoch, warmup_epochs, start) * math.pow(decay, max(0.0, epoch - warmup_epochs))

    return LambdaLR(optimizer, factor)
