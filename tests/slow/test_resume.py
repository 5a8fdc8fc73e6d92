"""A run that is killed and resumed reads the same batches and ends with the same weights."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
import torch

from tests.helpers.commands import run_process
from tests.helpers.killing import read_steps

BATCHES = 13  # per epoch, of 208 images
EPOCHS = 3


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str]) -> list[str]:
    return [
        *tiny_settings,
        "data.batch_size=16",
        f"trainer.max_epochs={EPOCHS}",
        "model.mixup_alpha=0.2",
        "model.cutmix_alpha=1",
        "+model.backbone_arguments.drop_rate=0.3",
        "+model.backbone_arguments.drop_path_rate=0.2",
        "logger=csv",
        "callbacks.last_checkpoint.every_n_steps=2",
        "callbacks.progress_bar=null",
        "+callbacks.killer._target_=tests.helpers.killing.Killer",
    ]


def test_a_run_killed_ten_times_reads_the_same_batches(settings: list[str], tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    run = [*settings, f"hydra.run.dir={tmp_path}/whole", f"+callbacks.killer.path={whole}", "data.num_workers=0"]
    assert run_process("train", *run).returncode == 0
    expected = {(step["epoch"], step["batch"]): step for step in read_steps(whole)}
    assert len(expected) == EPOCHS * BATCHES

    seen, last = tmp_path / "seen.jsonl", tmp_path / "run" / "checkpoints" / "last.ckpt"
    kills = sorted(random.Random(0).sample(range(1, EPOCHS * BATCHES), 10))
    for attempt, kill in enumerate([*kills, None]):
        done = run_process(
            "train",
            *settings,
            f"hydra.run.dir={tmp_path}/run",
            f"+callbacks.killer.path={seen}",
            f"+callbacks.killer.at={'null' if kill is None else kill}",
            f"data.num_workers={attempt % 4}",
            f"ckpt_path={last if last.exists() else 'null'}",
        )
        assert done.returncode == (0 if kill is None else -signal.SIGKILL)
    steps = read_steps(seen)
    assert all(step == expected[step["epoch"], step["batch"]] for step in steps)
    assert {(step["epoch"], step["batch"]) for step in steps} == expected.keys()
    assert len(steps) <= len(expected) + len(kills), "a resumed run repeated more than it had lost"
    assert (steps[-1]["epoch"], steps[-1]["batch"]) == (EPOCHS - 1, BATCHES - 1)
    assert_same_weights(tmp_path / "whole" / "checkpoints" / "last.ckpt", last)


def assert_same_weights(first: Path, second: Path) -> None:
    """Assert that two checkpoints have the same weights, bit for bit."""
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
