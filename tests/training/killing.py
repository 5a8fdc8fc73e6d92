"""A callback that notes what a training is fed, and kills it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from flowers.models import classifier
from flowers.models.mixing import Mixing


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()


class Killer(Callback):
    """Writes a line a step: its epoch and number, ids with the pixels' hashes, the mixing. Kills at batch `at`."""

    def __init__(self, path: str, at: int | None = None) -> None:
        self.path = Path(path)
        self.at = at
        self.line: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        draw = classifier.draw_mixing

        def noted(*arguments: Any, **settings: Any) -> Mixing:
            mixing = draw(*arguments, **settings)
            self.line["mixing"] = [mixing.partner.tolist(), mixing.share.tolist(), mixing.box.tolist()]
            return mixing

        classifier.draw_mixing = noted

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        pixels = [digest(image.numpy().tobytes()) for image in batch["image"]]
        self.line = {"epoch": trainer.current_epoch, "batch": batch_idx, "seen": [batch["id"], pixels]}
        if self.at == trainer.current_epoch * trainer.num_training_batches + batch_idx:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, *_: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(self.line) + "\n")
