"""Predictions are collected from batches that have what they need."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from flowers.training.collect_outcomes import CollectOutcomes

TRAINER: Any = SimpleNamespace(
    strategy=SimpleNamespace(root_device=torch.device("cpu")),
    state=SimpleNamespace(fn=TrainerFn.VALIDATING),
    datamodule=SimpleNamespace(class_names=["a", "b"]),
    sanity_checking=False,
    global_rank=0,
    world_size=1,
)


@pytest.mark.parametrize(("labels", "collected"), [({}, False), ({"label": torch.tensor([1, 0])}, True)])
def test_a_batch_without_labels_is_left_out(labels: dict[str, Any], collected: bool) -> None:
    callback, model = CollectOutcomes(), L.LightningModule()
    batch = {"id": ["x", "y"], **labels}
    callback.on_validation_start(TRAINER, model)
    callback.on_validation_batch_end(TRAINER, model, {"logits": torch.eye(2)}, batch, 0)
    callback.on_validation_end(TRAINER, model)
    assert (callback.outcomes is not None) == collected
