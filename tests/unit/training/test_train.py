"""How long a run is, for the schedule of its learning rate."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from flowers.errors import InputError
from flowers.training.length import limit_batches, run_length
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
    assert limit_batches(75, limit) == batches


def test_a_list_setting_does_not_spoil_the_checkpoints(tiny_settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["+optimizer.betas=[0.9,0.95]", "+trainer.limit_train_batches=2", "logger=csv", f"hydra.run.dir={run}"]
    done = run_command("train", *tiny_settings, *settings)
    assert done.returncode == 0, done.stderr
    for name in ("best", "last"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["betas"] == [0.9, 0.95]


def test_what_other_processes_skipped_is_reported(
    garden: Path, tiny_settings: list[str], door: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    shutil.copytree(garden / "tfrecords-jpeg-192x192", tmp_path / "data" / "tfrecords-jpeg-192x192")
    shards = sorted((tmp_path / "data").rglob("train/*.tfrec"))
    for shard in shards:
        data = bytearray(shard.read_bytes())
        data[500] ^= 1
        shard.write_bytes(data)
    done = door(
        "train",
        *tiny_settings,
        f"data.root={tmp_path / 'data'}",
        "data.on_bad_record=skip",
        "data.num_workers=0",
        "data.batch_size=8",
        "trainer.devices=2",
        "+trainer.strategy=ddp",
        "+trainer.limit_val_batches=1",
        "logger=csv",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(rf" {len(shards)} .*data\.on_bad_record=skip", done.stdout)
