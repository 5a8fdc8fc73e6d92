"""Callbacks that record the batches of a training, and end or corrupt it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import albumentations as A
import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback

from flowers.models import mixing
from flowers.models.mixing import Mixing


def add_killer(settings: list[str]) -> list[str]:
    """Add a `Killer` to a training's settings. The caller must still set its `path`."""
    return [*settings, "callbacks.progress_bar=null", "+callbacks.killer._target_=tests.helpers.killing.Killer"]


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Read what a `Killer` has written, one step per line."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def shorten(settings: list[str], epochs: int) -> list[str]:
    """Return a training's settings with 13 batches per epoch and a `Killer`."""
    short = ["data.batch_size=16", "data.num_workers=0", f"trainer.max_epochs={epochs}", "logger=csv"]
    return add_killer([*settings, *short])


def run_uninterrupted(
    run: Callable[..., CompletedProcess[str]], settings: list[str], directory: Path
) -> list[dict[str, Any]]:
    """Run a training to its end with `run`, and return its steps."""
    path = directory / "seen.jsonl"
    done = run("train", *settings, f"hydra.run.dir={directory}/run", f"+callbacks.killer.path={path}")
    assert done.returncode == 0, done.stderr
    return read_steps(path)


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


class Killer(Callback):
    """Writes one line per step (epoch, batch, ids, pixel hashes, mixing), and ends the run at batch `at`.

    Args:
        path: the file to write.
        at: the batch at which to end the run, counted over all epochs. None: that of the environment variable
            KILLER_AT, which is no setting of the run, or never.
        by: the name of a signal, or `stop` for `trainer.should_stop`.
        validating: end the run in the validation that follows instead.
        times: how often to send the signal.
    """

    def __init__(
        self, path: str, at: int | None = None, by: str = "SIGKILL", validating: bool = False, times: int = 1
    ) -> None:
        self.path = Path(path)
        self.at = int(os.environ["KILLER_AT"]) if at is None and "KILLER_AT" in os.environ else at
        self.by = by
        self.validating = validating
        self.times = times
        self.line: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        draw = getattr(mixing.draw_mixing, "__wrapped__", mixing.draw_mixing)  # unwrap an earlier run's recorder

        @functools.wraps(draw)
        def record_mixing(*arguments: Any, **settings: Any) -> Mixing:
            drawn = draw(*arguments, **settings)
            self.line["mixing"] = [drawn.partner.tolist(), drawn.fraction.tolist(), drawn.box.tolist()]
            return drawn

        mixing.draw_mixing = record_mixing

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        pixels = [digest(image.numpy().tobytes()) for image in batch["image"]]
        self.line = {"epoch": trainer.current_epoch, "batch": batch_idx, "seen": [batch["id"], pixels]}
        if self._is_due(trainer) and not self.validating:
            self._end(trainer)

    def on_validation_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self.validating and self._is_due(trainer):
            self._end(trainer)

    def _is_due(self, trainer: L.Trainer) -> bool:
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1
        return self.at == trainer.current_epoch * trainer.num_training_batches + batch

    def _end(self, trainer: L.Trainer) -> None:
        if self.by == "stop":
            trainer.should_stop = True
        else:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.Signals[self.by])

    def on_train_batch_end(self, *_: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(self.line) + "\n")


class Spoiler(Callback):
    """Sets all weights to NaN before batch `at`, counted over all epochs."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.at:
            for parameter in pl_module.parameters():
                parameter.data.fill_(float("nan"))


class Fatal(A.ImageOnlyTransform):
    """Kills the process it runs in, as the system does when memory runs out."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return img
