"""A run that is killed and resumed reads the same batches, and ends with the same weights and metrics."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
import torch

from flowers.training.runs import Run
from tests.helpers.commands import ScriptProcess, run_process
from tests.helpers.killing import read_steps

BATCHES = 13  # per epoch, of 208 images
EPOCHS = 3


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str]) -> list[str]:
    return [
        *tiny_settings,
        "logger=default",
        "data.batch_size=16",
        f"trainer.max_epochs={EPOCHS}",
        "model.mixup_alpha=0.2",
        "model.cutmix_alpha=1",
        "+model.backbone_arguments.drop_rate=0.3",
        "+model.backbone_arguments.drop_path_rate=0.2",
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
    logged = list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len(logged) == len(kills) + 1
    assert len({directory.name.rpartition("-")[2] for directory in logged}) == 1, "it did not continue its W&B run"


def test_a_multirun_killed_at_any_time_ends_with_the_same_metrics(tiny_settings: list[str], tmp_path: Path) -> None:
    quick = ["data.batch_size=26", "data.num_workers=1", "trainer.max_epochs=2", "logger=csv", "seed=1,2,3"]
    settings = ["--multirun", *tiny_settings, *quick, "callbacks.last_checkpoint.every_n_steps=2", "resume=true"]
    settings += ["callbacks.progress_bar=null", "+callbacks.killer._target_=tests.helpers.killing.Killer"]
    settings += ["+callbacks.killer.path='${paths.output_dir}/seen.jsonl'"]
    assert run_process("train", *settings, f"hydra.sweep.dir={tmp_path}/whole").returncode == 0

    sweep, generator = tmp_path / "sweep", random.Random(0)
    for steps in (2, 9, 15, 19, 33, 48):  # of 48 in all, and some are repeated
        command = ScriptProcess("train", *settings, f"hydra.sweep.dir={sweep}")
        while command.process.is_alive() and count_lines(sweep) < steps:
            time.sleep(0.01)
        time.sleep(generator.random())  # also while it validates, saves, writes metrics or starts the next job
        command.process.kill()
        command.process.join()
    done = run_process("train", *settings, f"hydra.sweep.dir={sweep}")
    assert done.returncode == 0, done.stderr
    for job in "012":
        runs = Run(sweep / job), Run(tmp_path / "whole" / job)
        metrics, expected = (run.read_metrics() or {} for run in runs)
        for name in ("val/loss", "val/accuracy", "val/macro_f1"):
            assert metrics[name] == expected[name], (job, name)
        assert_same_weights(runs[0].last, runs[1].last)


def count_lines(sweep: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in sweep.glob("*/seen.jsonl"))


def assert_same_weights(first: Path, second: Path) -> None:
    """Assert that two checkpoints have the same weights, bit for bit."""
    states = [torch.load(path, weights_only=True)["state_dict"] for path in (first, second)]
    assert states[0].keys() == states[1].keys()
    assert [name for name, value in states[0].items() if not torch.equal(value, states[1][name])] == []
