"""Random numbers drawn in a training step are reproducible."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import nn

from flowers.training.random_state import SeedSteps, step_seed


class Drawing(L.LightningModule):
    """Stores the random number that it draws in each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.drawn: list[float] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.drawn.append(torch.rand(()).item())
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_the_random_numbers_of_a_step_depend_only_on_seed_epoch_and_batch() -> None:
    drawn = []
    for seed, before in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(before)
        module, settings = Drawing(), {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(max_epochs=2, accelerator="cpu", callbacks=[SeedSteps(seed)], **settings)  # type: ignore[arg-type]
        trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(3, 1)))  # type: ignore[arg-type]
        drawn.append(module.drawn)
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0] + drawn[2])) == 12


def test_seeds_of_steps_differ_and_fit_32_bits() -> None:
    seeds = {step_seed(seed, epoch, batch) for seed in (0, 1, 2**40) for epoch in range(9) for batch in range(9)}
    assert len(seeds) == 3 * 81
    assert all(0 <= seed < 2**32 for seed in seeds)
