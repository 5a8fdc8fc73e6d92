"""The callbacks of a training are tested without one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from flowers.errors import InputError
from flowers.training.callbacks import NonFiniteGuard


@pytest.mark.parametrize(("bad", "found"), [(range(4, 11), 4), ([10], 10), ([4], None)])
def test_the_first_non_finite_step_is_reported_when_the_loss_is_read_later(
    bad: Sequence[int], found: int | None
) -> None:
    guard = NonFiniteGuard()
    trainer = SimpleNamespace(
        log_every_n_steps=10,
        is_last_batch=False,
        current_epoch=0,
        strategy=SimpleNamespace(root_device=torch.device("meta")),
    )
    with pytest.raises(InputError, match=f"step {found} .*image-{found}") if found else nullcontext():
        for step in range(1, 11):
            trainer.global_step = step
            outputs = {"loss": torch.tensor(float("inf") if step in bad else 1.0)}
            guard.on_train_batch_end(cast(Any, trainer), cast(Any, None), outputs, {"id": [f"image-{step}"]}, step - 1)
