"""Write checkpoints atomically, with finite weights, and so that every command can read them."""

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
    """Writes a checkpoint to a temporary file in the same directory, then renames it. Reads the first one back.

    Lightning writes to the system's directory for temporary files. While it moves a file from there to another disk,
    neither the old checkpoint nor the new one is complete.
    """

    def __init__(self) -> None:
        self._read_back = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            InputError: the file cannot be written, a weight is not finite, or the checkpoint contains an object that
                no command could read. An existing file stays unchanged.
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
            fix = "The previous one is kept: make room, then resume from it" if Path(path).exists() else "Make room"
            raise InputError(
                f"{path}: expected room for a checkpoint, found this: {str(error).strip().splitlines()[0]}. {fix}."
            ) from error


def save_atomically(trainer: L.Trainer) -> None:
    """Make a trainer write checkpoints atomically, unless its strategy has its own checkpoint I/O, as XLA's have."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()


def check_kept_checkpoints(callbacks: Nodes) -> None:
    """Raise `InputError` if a callback would write several checkpoints to the same file."""
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
            f"{path}: expected finite weights, found NaN or infinity in {len(bad)} of {len(state)} tensors (first: "
            f"{bad[0]}). The previous checkpoint is kept. Lower optimizer.lr, or set trainer.gradient_clip_val=1.0."
        )


def _is_finite(tensor: Tensor) -> bool:
    return not bool((tensor.isnan() | tensor.isposinf()).any())


def check_readable(path: Path) -> None:
    """Raise `InputError` unless a checkpoint can be read without running code in it, as every command reads it."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path}: expected a checkpoint of tensors, numbers, strings, lists and dicts, found "
            f"{named[1] if named else error}, which no command could read. Leave it out of the state of the callback, "
            "optimizer or model that saves it."
        ) from error
