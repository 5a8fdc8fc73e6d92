"""Collect a model's predictions during validation from all processes of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from flowers.interfaces import NO_LABEL, Batch, valid_rows
from flowers.training.distributed import gather_objects
from flowers.training.outcomes import Outcomes
from flowers.training.pair import class_names_of


class CollectOutcomes(Callback):
    """Keeps the model's predictions of the last validation.

    The model's `validation_step` must return a mapping with `logits`, float `[B, K]`, and the batches must have ids and
    labels: see `flowers.interfaces`. Otherwise `outcomes` stays None. On XLA, validations during training are
    skipped: fetching a tensor that is split over several devices compiles a program each time.
    """

    def __init__(self) -> None:
        self.outcomes: Outcomes | None = None
        self._batches: list[_ValidationBatch] = []

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._batches = []

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if trainer.strategy.root_device.type == "xla" and trainer.state.fn == TrainerFn.FITTING:
            return
        returned = isinstance(outputs, Mapping) and "logits" in outputs
        if returned and isinstance(batch, Mapping) and {"id", "label"} <= batch.keys():
            # Kept on the device until all batches are done: fetching each one would make the device wait.
            logits, valid = outputs["logits"].detach(), valid_rows(cast(Batch, batch))
            self._batches.append(_ValidationBatch(batch["id"], batch["label"], valid, logits))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        batches, self._batches = self._batches, []
        names = class_names_of(trainer.datamodule) or class_names_of(pl_module)  # type: ignore[attr-defined]
        if batches and names is not None and not trainer.sanity_checking:
            parts = gather_objects(_join(batches, trainer.global_rank, trainer.world_size))
            self.outcomes = _gather(parts, names) if any(part.ids for part in parts) else None


@dataclass(frozen=True, slots=True)
class _ValidationBatch:
    """A batch's ids, labels int64 `[B]`, valid rows bool `[B]` and logits float `[B, K]`, on the device."""

    ids: list[str]
    labels: Tensor
    valid: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True)
class _Rows:
    """The valid, labelled rows of one process."""

    ids: list[str]
    places: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


def _join(batches: Sequence[_ValidationBatch], rank: int, ranks: int) -> _Rows:
    """Concatenate the batches of a process. A single process would load its k-th row at `k * ranks + rank`."""
    ids = np.array([identity for batch in batches for identity in batch.ids], dtype=object)
    labels = torch.cat([batch.labels.cpu() for batch in batches]).numpy()
    logits = torch.cat([batch.logits.cpu().float() for batch in batches]).numpy()
    kept = torch.cat([batch.valid.cpu() for batch in batches]).numpy() & (labels != NO_LABEL)
    places = np.arange(len(kept)) * ranks + rank
    return _Rows(list(ids[kept]), places[kept], labels[kept], logits[kept])


def _gather(parts: Sequence[_Rows], class_names: list[str]) -> Outcomes:
    """Merge the rows of all processes, in the order of a single process."""
    places = np.concatenate([part.places for part in parts])
    order = np.argsort(places, kind="stable")
    ids = [identity for part in parts for identity in part.ids]
    probabilities: NDArray[np.float32] = softmax(np.concatenate([part.logits for part in parts])[order], axis=1)
    return Outcomes(
        [ids[place] for place in order],
        places[order],
        np.concatenate([part.labels for part in parts])[order],
        probabilities,
        class_names,
    )
