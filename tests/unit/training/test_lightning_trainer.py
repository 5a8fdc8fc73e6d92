"""The trainer refuses settings that the machine cannot fulfil."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowers.errors import InputError
from flowers.training.lightning_trainer import make_trainer
from tests.helpers.configuration import compose_values


def test_a_strategy_that_needs_gpus_is_refused_on_the_cpu(tmp_path: Path) -> None:
    node = compose_values("train", "trainer=cpu", "+trainer.strategy=fsdp", "trainer.devices=2")["trainer"]
    with pytest.raises(InputError, match=r"^trainer: .*fsdp"):
        make_trainer(node, [], [], tmp_path)
