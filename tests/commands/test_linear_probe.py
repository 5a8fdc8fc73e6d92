"""The head is fitted before the first step: once, alike in all processes, and not where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from flowers.models.backbone import create_backbone
from tests.helpers.commands import ROOT, run_process, run_script

PROBE = ["logger=csv", "+trainer.limit_val_batches=1", "data.num_workers=0"]


class Watch(Callback):
    """Writes the head as it is at the first step of a run, one file for each process."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        head: Any = pl_module.backbone
        torch.save(
            {"head": head.classifier.weight.detach().cpu().clone(), "mode": pl_module.training},
            self.path / f"{trainer.global_rank}.pt",
        )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in a file, which pass for pretrained ones."""
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.manual_seed(0)
    torch.save(create_backbone("test_efficientnet", 10, False).state_dict(), path)
    return path


def watch(directory: Path) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    target = "tests.commands.test_linear_probe.Watch"
    return [f"+callbacks.watch._target_={target}", f"+callbacks.watch.path={directory}"]


def seen(directory: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(directory / f"{rank}.pt")
    return found


def test_a_probe_starts_training_with_a_fitted_head(tiny_settings: list[str], weights: Path, tmp_path: Path) -> None:
    settings = [*tiny_settings, *PROBE, f"model.pretrained={weights}", "optimizer.lr=0.0"]
    done = run_script("train", *settings, *watch(tmp_path), f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert seen(tmp_path)["mode"]
    assert float(seen(tmp_path)["head"].abs().max()) > 0


def test_processes_agree_on_the_head_of_one(tiny_settings: list[str], weights: Path, tmp_path: Path) -> None:
    settings = [*tiny_settings, *PROBE, f"model.pretrained={weights}", "+trainer.limit_train_batches=3"]
    for processes, batch in ((1, 16), (2, 8)):
        directory = tmp_path / str(processes)
        arguments = [f"trainer.devices={processes}", f"data.batch_size={batch}", f"hydra.run.dir={directory}/run"]
        done = run_process("train", *settings, *arguments, *watch(directory), PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
    one, first, second = seen(tmp_path / "1"), seen(tmp_path / "2"), seen(tmp_path / "2", 1)
    assert torch.equal(first["head"], second["head"])
    assert float((first["head"] - one["head"]).abs().max() / one["head"].abs().max()) < 0.01


def test_a_resumed_run_is_not_fitted_again(tiny_settings: list[str], weights: Path, tmp_path: Path) -> None:
    settings = [*tiny_settings, *PROBE, f"model.pretrained={weights}", "+trainer.limit_train_batches=2"]
    done = run_script("train", *settings, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    resumed = [f"ckpt_path={last}", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/resumed"]
    done = run_script("train", *settings, *resumed, *watch(tmp_path))
    assert done.returncode == 0, done.stderr
    kept = torch.load(last, weights_only=True)["state_dict"]["backbone.classifier.weight"]
    assert torch.equal(seen(tmp_path)["head"], kept)


def test_a_head_that_was_trained_is_kept(tiny_settings: list[str], trained: Path, tmp_path: Path) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    settings = [*tiny_settings, *PROBE, f"model.pretrained={best}", "+trainer.limit_train_batches=1"]
    done = run_script("train", *settings, *watch(tmp_path), f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    kept = torch.load(best, weights_only=True)["state_dict"]["backbone.classifier.weight"]
    assert torch.equal(seen(tmp_path)["head"], kept)


def test_random_weights_are_not_probed(tiny_settings: list[str], tmp_path: Path) -> None:
    done = run_script("train", *tiny_settings, *PROBE, "trainer.fast_dev_run=true", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "Linear probe: skipped" in done.stdout + done.stderr
