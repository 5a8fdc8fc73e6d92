"""The head is fitted once before the first step, and is the same in all processes."""

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
    """Saves the head at the first step of a run, one file per process."""

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
    """Return a file of random weights that count as pretrained."""
    path = tmp_path_factory.mktemp("weights") / "weights.pt"
    torch.manual_seed(0)
    torch.save(create_backbone("test_efficientnet", 10, False).state_dict(), path)
    return path


def watch_settings(directory: Path) -> list[str]:
    directory.mkdir(parents=True, exist_ok=True)
    target = "tests.commands.test_linear_probe.Watch"
    return [f"+callbacks.watch._target_={target}", f"+callbacks.watch.path={directory}"]


def load_watched(directory: Path, rank: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(directory / f"{rank}.pt")
    return found


def test_a_probe_starts_training_with_a_fitted_head(tiny_settings: list[str], weights: Path, tmp_path: Path) -> None:
    settings = [*tiny_settings, *PROBE, f"model.pretrained={weights}", "optimizer.lr=0.0"]
    done = run_script("train", *settings, *watch_settings(tmp_path), f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    assert load_watched(tmp_path)["mode"]
    assert float(load_watched(tmp_path)["head"].abs().max()) > 0


@pytest.mark.slow
def test_several_processes_fit_the_head_of_one(tiny_settings: list[str], weights: Path, tmp_path: Path) -> None:
    settings = [*tiny_settings, *PROBE, f"model.pretrained={weights}", "+trainer.limit_train_batches=3"]
    for processes, batch in ((1, 16), (2, 8)):
        directory = tmp_path / str(processes)
        arguments = [f"trainer.devices={processes}", f"data.batch_size={batch}", f"hydra.run.dir={directory}/run"]
        done = run_process("train", *settings, *arguments, *watch_settings(directory), PYTHONPATH=str(ROOT))
        assert done.returncode == 0, done.stderr
    one, first, second = load_watched(tmp_path / "1"), load_watched(tmp_path / "2"), load_watched(tmp_path / "2", 1)
    assert torch.equal(first["head"], second["head"])
    assert float((first["head"] - one["head"]).abs().max() / one["head"].abs().max()) < 0.01


def test_a_resumed_run_is_not_fitted_again(tiny_settings: list[str], weights: Path, tmp_path: Path) -> None:
    settings = [*tiny_settings, *PROBE, f"model.pretrained={weights}", "+trainer.limit_train_batches=2"]
    done = run_script("train", *settings, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    resumed = [f"ckpt_path={last}", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}/resumed"]
    done = run_script("train", *settings, *resumed, *watch_settings(tmp_path))
    assert done.returncode == 0, done.stderr
    saved = torch.load(last, weights_only=True)["state_dict"]["backbone.classifier.weight"]
    assert torch.equal(load_watched(tmp_path)["head"], saved)


def test_a_head_that_was_trained_is_kept(tiny_settings: list[str], trained: Path, tmp_path: Path) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    settings = [*tiny_settings, *PROBE, f"model.pretrained={best}", "+trainer.limit_train_batches=1"]
    done = run_script("train", *settings, *watch_settings(tmp_path), f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr
    saved = torch.load(best, weights_only=True)["state_dict"]["backbone.classifier.weight"]
    assert torch.equal(load_watched(tmp_path)["head"], saved)


def test_random_weights_are_not_probed(tiny_settings: list[str], tmp_path: Path) -> None:
    done = run_script("train", *tiny_settings, *PROBE, "trainer.fast_dev_run=true", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "Linear probe: skipped" in done.stdout + done.stderr
