"""Folds are predicted on one device."""

from __future__ import annotations

from typing import Any

import pytest

from flowers.cross_validation.folds import plain_trainer

XLA = {"_target_": "flowers.training.xla.strategy.SPMDStrategy"}


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"devices": 4, "strategy": "ddp"}, {"devices": 1}),
        ({"devices": "auto", "max_epochs": 3, "limit_val_batches": 2}, {"devices": 1}),
        ({"devices": [2, 3]}, {"devices": [2]}),
        ({"devices": "auto", "strategy": XLA}, {"devices": "auto", "strategy": XLA}),
        (
            {"precision": "bf16-mixed", "accelerator": "gpu"},
            {"precision": "bf16-mixed", "accelerator": "gpu", "devices": 1},
        ),
    ],
)
def test_predictions_keep_the_accelerator_and_precision_of_the_training(
    node: dict[str, Any], expected: dict[str, Any]
) -> None:
    target = {"_target_": "lightning.Trainer"}
    assert plain_trainer(target | node) == target | expected
