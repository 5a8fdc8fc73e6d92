"""The linear probe changes the head alone."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from flowers.training.linear_probe import LinearProbe


class Net(L.LightningModule):
    """A model whose user keeps one layer in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.trained, self.head = nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.kept.eval()

    def linear_head(self) -> nn.Linear:
        return self.head

    def features(self, image: Tensor) -> Tensor:
        features: Tensor = self.trained(self.kept(image))
        return features


def test_only_the_head_changes_and_modules_keep_their_modes() -> None:
    image = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    batch = {"image": image, "label": (image[:, 0] > 0).long()}
    trainer: Any = SimpleNamespace(
        ckpt_path=None,
        world_size=1,
        is_global_zero=True,
        limit_train_batches=1.0,
        datamodule=SimpleNamespace(loader=lambda split: [batch]),
        strategy=SimpleNamespace(batch_to_device=lambda batch: batch, broadcast=lambda value: value),
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    model = Net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    LinearProbe().on_fit_start(trainer, model)
    assert [module.training for module in (model, model.kept, model.trained, model.head)] == [True, False, True, True]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}
