"""Fit the head to frozen features before training: linear probing, then fine-tuning (LP-FT)."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import nn

from flowers.interfaces import NO_LABEL, HasLinearHead, LoadsSplits, valid_rows
from flowers.models.features import fit_linear_head
from flowers.progress import progress
from flowers.training.distributed import gather_objects, has_process_group
from flowers.training.length import limit_batches

log = logging.getLogger(__name__)


class LinearProbe(Callback):
    """Fits the head by logistic regression before the first step, so that training does not distort good features.

    Kumar et al. 2022, arXiv:2202.10054. It takes one pass over the training images, without augmentation. A resumed run
    does not repeat it. It is skipped, and the reason is logged, for a backbone without a linear head, with random
    weights or with a trained head, for data without `loader(split)`, and on several TPU hosts. For other models see
    `flowers.interfaces.HasLinearHead`.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.ckpt_path is not None or not isinstance(pl_module, HasLinearHead):
            return
        head = pl_module.linear_head()
        reason = _find_obstacle(trainer, head)
        if head is not None and reason is None:
            features, labels = _compute_features(trainer, pl_module)
            if len(np.unique(labels)) > 1:
                _set_head(trainer, head, features, labels)
                return
            reason = "the images are of one class"
        rank_zero_only(log.info)("Linear probe: skipped, because %s.", reason)


def _find_obstacle(trainer: L.Trainer, head: nn.Linear | None) -> str | None:
    """Explain why a head cannot be fitted, or return None if it can."""
    if head is None:
        return "the model has no new linear head on pretrained weights"
    if not isinstance(trainer.datamodule, LoadsSplits):  # type: ignore[attr-defined]
        return "the data module has no loader(split)"
    if trainer.world_size > 1 and not has_process_group():
        return "the hosts of a TPU pod cannot exchange features"
    return None


@torch.no_grad()
def _compute_features(trainer: L.Trainer, model: Any) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the features float32 `[N, F]` and labels int64 `[N]` of the training images, from all processes."""
    loader = trainer.datamodule.loader("train")  # type: ignore[attr-defined]
    count = limit_batches(len(loader), trainer.limit_train_batches)
    features, labels = [], []
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for batch in progress(itertools.islice(loader, count), "Fitting the head to frozen features", count):
        kept = valid_rows(batch) & (batch["label"] != NO_LABEL)
        image = trainer.strategy.batch_to_device(batch)["image"]
        with trainer.precision_plugin.forward_context():
            computed = model.features(image)
        features.append(computed.float().cpu().numpy()[kept.numpy()])
        labels.append(batch["label"].numpy()[kept.numpy()])
    for module, training in modes:  # a model may keep some in evaluation mode
        module.training = training
    parts = gather_objects((np.concatenate(features), np.concatenate(labels)))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _set_head(trainer: L.Trainer, head: nn.Linear, features: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
    """Fit the head in the first process, and broadcast it to all processes."""
    fitted = fit_linear_head(features, labels, head.out_features) if trainer.is_global_zero else None
    fitted = trainer.strategy.broadcast(fitted)
    assert fitted is not None
    with torch.no_grad():
        head.weight.copy_(fitted[0])
        head.bias.copy_(fitted[1])
