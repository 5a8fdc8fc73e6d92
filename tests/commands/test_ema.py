"""The average of the weights matches its closed form, and does not change the training."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader

from flowers.interfaces import Batch
from flowers.models.classifier import FlowerClassifier
from flowers.training.ema import EMA

STEPS, EPOCHS, DECAY = 4, 3, 0.7


def make_batch(_: Any) -> Batch:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (6, 32, 32, 3), dtype=torch.uint8, generator=generator)
    valid = torch.ones(6, dtype=torch.bool)
    return Batch(image=image, label=torch.arange(6) % 3, id=list("abcdef"), valid=valid, skipped=[])


class Watch(L.Callback):
    """Records the weights after each step, and those that are validated."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.steps.append(copy_state(pl_module))

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.validated.append(copy_state(pl_module))


def copy_state(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def fit(
    directory: Path, *callbacks: L.Callback, ckpt_path: Path | None = None, **settings: Any
) -> tuple[Watch, dict[str, Tensor]]:
    """Train, and return the recorded weights and those at the start."""
    torch.manual_seed(0)
    model = FlowerClassifier(
        ["a", "b", "c"],
        "test_efficientnet",
        optimizer=functools.partial(torch.optim.AdamW, lr=1e-2),
        scheduler=functools.partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0),
    )
    start, watch = copy_state(model), Watch()
    checkpoints = ModelCheckpoint(directory, filename="{epoch}", save_top_k=-1)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        callbacks=[*callbacks, watch, checkpoints],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **settings,
    )
    train: Any = DataLoader(range(STEPS), collate_fn=make_batch)  # type: ignore[arg-type]
    val: Any = DataLoader(range(1), collate_fn=make_batch)  # type: ignore[arg-type]
    trainer.fit(model, train, val, ckpt_path=ckpt_path)
    return watch, start


@pytest.fixture(scope="module")
def with_ema(tmp_path_factory: pytest.TempPathFactory) -> tuple[Watch, dict[str, Tensor], Path]:
    directory = tmp_path_factory.mktemp("with_ema")
    return *fit(directory, EMA(DECAY)), directory


@pytest.fixture(scope="module")
def averages(with_ema: tuple[Watch, dict[str, Tensor], Path]) -> list[dict[str, Tensor]]:
    watch, start, _ = with_ema
    return average_by_formula(start, watch.steps)


def average_by_formula(average: dict[str, Tensor], steps: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Return the average after each step."""
    found = []
    for step, weights in enumerate(steps, start=1):
        decay = min(DECAY, (1 + step) / (10 + step))
        average = {
            name: decay * average[name] + (1 - decay) * weight if weight.is_floating_point() else weight
            for name, weight in weights.items()
        }
        found.append(average)
    return found


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_training_is_the_same_with_and_without_an_average(
    with_ema: tuple[Watch, dict[str, Tensor], Path], tmp_path: Path
) -> None:
    without, _ = fit(tmp_path)
    for found, expected in zip(with_ema[0].steps, without.steps, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_validation_uses_the_average(
    with_ema: tuple[Watch, dict[str, Tensor], Path], averages: list[dict[str, Tensor]]
) -> None:
    for epoch, found in enumerate(with_ema[0].validated, start=1):
        assert_same(found, averages[epoch * STEPS - 1])


def test_the_average_is_right_within_epochs_and_with_accumulation(tmp_path: Path) -> None:
    watch, start = fit(tmp_path, EMA(DECAY), val_check_interval=2, accumulate_grad_batches=2)
    steps = watch.steps[1::2]  # the weights after every second batch
    for found, expected in zip(watch.validated, average_by_formula(start, steps), strict=True):
        assert_same(found, expected)


def test_a_checkpoint_holds_the_average_and_the_weights(
    with_ema: tuple[Watch, dict[str, Tensor], Path], averages: list[dict[str, Tensor]]
) -> None:
    watch, _, directory = with_ema
    checkpoint = torch.load(directory / "epoch=1.ckpt", weights_only=True)
    assert_same(checkpoint["state_dict"], averages[2 * STEPS - 1])
    weights = checkpoint["ema"]["weights"]
    assert_same(weights, {name: watch.steps[2 * STEPS - 1][name] for name in weights})


def test_a_resumed_run_continues_exactly(with_ema: tuple[Watch, dict[str, Tensor], Path], tmp_path: Path) -> None:
    watch, _, directory = with_ema
    resumed, _ = fit(tmp_path, EMA(DECAY), ckpt_path=directory / "epoch=0.ckpt")
    assert len(resumed.steps) == (EPOCHS - 1) * STEPS
    torch.testing.assert_close(resumed.steps[-1], watch.steps[-1], rtol=0, atol=0)
    torch.testing.assert_close(resumed.validated[-1], watch.validated[-1], rtol=0, atol=0)


def test_a_run_without_an_average_can_be_resumed_with_one(tmp_path: Path) -> None:
    fit(tmp_path / "without")
    resumed, _ = fit(tmp_path / "with", EMA(DECAY), ckpt_path=tmp_path / "without" / "epoch=1.ckpt")
    assert not torch.equal(
        resumed.validated[-1]["backbone.classifier.weight"], resumed.steps[-1]["backbone.classifier.weight"]
    )
