"""How long a run is, for the schedule of its learning rate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowers.errors import InputError
from flowers.training.train import limited, run_length
from tests.helpers.commands import run_command


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "epochs"), [(3, -1, 3), (-1, 50, 5), (3, 50, 3), (10, 25, 2.5), (0, -1, 0)]
)
def test_a_run_ends_at_the_first_of_its_bounds(max_epochs: int, max_steps: int, epochs: float) -> None:
    assert run_length(max_epochs, max_steps, steps_per_epoch=10) == epochs


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(InputError, match="expected an end"):
        run_length(-1, -1, 10)


@pytest.mark.parametrize(("limit", "batches"), [(None, 75), (5, 5), (500, 75), (0.1, 7), (1.0, 75)])
def test_limited_batches(limit: float | None, batches: int) -> None:
    assert limited(75, limit) == batches


def test_a_list_setting_does_not_spoil_the_checkpoints(tiny_settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["+optimizer.betas=[0.9,0.95]", "+trainer.limit_train_batches=2", "logger=csv", f"hydra.run.dir={run}"]
    done = run_command("train", *tiny_settings, *settings)
    assert done.returncode == 0, done.stderr
    for name in ("best", "last"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["betas"] == [0.9, 0.95]
