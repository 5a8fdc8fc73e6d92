"""How a checkpoint becomes a file: whole or not at all, on any disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from flowers.data.atomic import open_atomic


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames it.

    Lightning writes to the system's directory for temporary files. What it moves from there to another disk is for a
    while neither the old checkpoint nor the new one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open_atomic(Path(path)) as file:
            torch.save(checkpoint, file)


def save_atomically(trainer: L.Trainer) -> None:
    """Make a trainer write its checkpoints atomically, unless its strategy has a way of its own, as XLA's do."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
