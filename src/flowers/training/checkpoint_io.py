"""Write checkpoints: whole or not at all, with finite weights, readable by every command."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor

from flowers.errors import InputError
from flowers.settings import Nodes
from flowers.system.atomic import atomic_path


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, then renames it. The first one is read back.

    Lightning writes to the system's directory for temporary files. What it moves from there to another disk is for a
    while neither the old checkpoint nor the new one.
    """

    def __init__(self) -> None:
        self._read_back = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            InputError: it cannot be written, its weights are not finite, or it holds what no command would read. The
                file is as it was.
        """
        check_finite(checkpoint.get("state_dict", {}), path)
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(Path(path)) as unfinished:
                torch.save(checkpoint, unfinished)
                if not self._read_back:
                    check_readable(unfinished)
                    self._read_back = True
        except (OSError, RuntimeError) as error:
            if not isinstance(error, OSError) and "inline_container" not in str(error):
                raise  # torch's error for a file that cannot be written is a RuntimeError of its inline_container.cc
            kept = "The one before is kept: make room, then resume from it" if Path(path).exists() else "Make room"
            raise InputError(
                f"{path}: expected room for a checkpoint, found this: {str(error).strip().splitlines()[0]}. {kept}."
            ) from error


def save_atomically(trainer: L.Trainer) -> None:
    """Make a trainer write its checkpoints atomically, unless its strategy has a way of its own, as XLA's do."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def check_kept_checkpoints(callbacks: Nodes) -> None:
    """Raise `InputError` if a callback would keep several checkpoints in one file."""
    for name, node in (callbacks or {}).items():
        kept, filename = (node or {}).get("save_top_k", 1), (node or {}).get("filename")
        if kept not in (0, 1) and isinstance(filename, str) and "{" not in filename:
            raise InputError(
                f"callbacks.{name}.save_top_k={kept}: expected a filename for each checkpoint, found {filename} for "
                "all of them. Choose callbacks=top_k, or put {epoch} into the filename."
            )


def check_finite(state: dict[str, Tensor], path: str | Path) -> None:
    """Raise `InputError` if a weight is NaN or infinity. Minus infinity is allowed: attention masks have it."""
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not _is_finite(tensor)]
    if bad:
        raise InputError(
            f"{path}: expected finite weights to save, found {len(bad)} of {len(state)} tensors with others (first: "
            f"{bad[0]}). The checkpoint before is kept. Lower optimizer.lr, or set trainer.gradient_clip_val=1.0."
        )


def _is_finite(tensor: Tensor) -> bool:
    return not bool((tensor.isnan() | tensor.isposinf()).any())


def check_readable(path: Path) -> None:
    """Raise `InputError` unless a checkpoint can be read as every command reads it, without running its code."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path}: expected a checkpoint of tensors, numbers, texts, lists and dicts, found "
            f"{named[1] if named else error}, so that no command could read it. Leave that out of the state of the "
            "callback, optimizer or model that saves it."
        ) from error
