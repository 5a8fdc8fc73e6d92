"""Folds are predicted on one device, and a failed one is explained by its own message."""

from __future__ import annotations

from typing import Any

import pytest

from flowers.cross_validation.folds import find_error, plain_trainer


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("Epoch 1/3\nerror: data.root: no such directory.\nSet it.\n", "data.root: no such directory.\nSet it."),
        ("error: first\nerror: second\n", "second"),
        ("Traceback\nValueError: no\n\n", "ValueError: no"),
        ("", ""),
    ],
)
def test_the_error_is_the_last_message(output: str, expected: str) -> None:
    assert find_error(output) == expected


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
