"""Compare this project's training step and prediction with those of a plain Lightning module.

The plain one is what a first program does: 32 bits, the default memory format, float images that were normalised on the
host, no compilation, memory returned after use. This project's runs as `trainer.autotune=true` chooses. Both have the
same backbone with random weights, batch, optimizer and trainer. They take turns, each in a process of its own, because
a process that has kept freed memory is faster afterwards, too: python -m benchmarks.plain_module BACKBONE
"""

from __future__ import annotations

import functools
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from statistics import median
from typing import Any

import lightning as L
import timm
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR

from flowers.inference.predict import Predictor
from flowers.inference.tta import TTA
from flowers.interfaces import Batch
from flowers.models.classifier import FlowerClassifier
from flowers.system.processes import exit_with_parent
from flowers.training.execution import Execution
from flowers.training.step_timing import Stage, quiet, time_steps
from flowers.training.tuning import choose_execution

CLASSES = 104
NODE = {"_target_": "lightning.Trainer", "accelerator": "cpu", "devices": 1}
MAKE_OPTIMIZER = functools.partial(torch.optim.AdamW, lr=3e-4, weight_decay=0.02)


class PlainModule(L.LightningModule):
    """A LightningModule as a first program has it."""

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.network = timm.create_model(backbone, num_classes=CLASSES)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images float `[B, 3, H, W]` and labels."""
        images, labels = batch
        return torch.nn.functional.cross_entropy(self.network(images), labels)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the probabilities of a batch, float `[B, K]`."""
        probabilities: Tensor = self.network(batch[0]).softmax(dim=1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return MAKE_OPTIMIZER(self.parameters())


@dataclass(frozen=True)
class Settings:
    """The command line's arguments."""

    backbone: str = field(metadata={"help": "the name of a timm model"})
    batch: int = field(default=16, metadata={"help": "images per step"})
    size: int = field(default=192, metadata={"help": "the side of the images, in pixels"})
    steps: int = field(default=10_000, metadata={"help": "the length of the run that is tuned"})
    rounds: int = field(default=5, metadata={"help": "how often both take a turn"})
    seconds: float = field(default=5.0, metadata={"help": "the time of a turn"})


@dataclass(frozen=True)
class Contender:
    """A module, its batch, and how its steps are run. `model` is the model that the module runs."""

    module: L.LightningModule
    batch: Any
    precision: str
    execution: Execution
    model: L.LightningModule


Make = Callable[[Stage, Settings], Contender]
"""Makes a contender for a stage."""


def make_plain(stage: Stage, settings: Settings) -> Contender:
    """Create the plain module and its batch."""
    images, labels = make_images(settings)
    floats = ((images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).contiguous()
    module = PlainModule(settings.backbone)
    return Contender(module, (floats, labels), "32-true", Execution(keep_memory=False), module)


def make_own(stage: Stage, settings: Settings) -> Contender:
    """Create this project's module and its batch, and tune it."""
    images, labels = make_images(settings)
    model = FlowerClassifier(
        class_names=[f"class {label}" for label in range(CLASSES)],
        backbone=settings.backbone,
        label_smoothing=0.1,
        optimizer=MAKE_OPTIMIZER,
        scheduler=functools.partial(ConstantLR, factor=1.0),
        image_size=settings.size,
    )
    module = model if stage == "fit" else Predictor(model, TTA().views(settings.size))
    batch = Batch(
        image=images,
        label=labels,
        id=[""] * len(labels),
        valid=torch.ones(len(labels), dtype=torch.bool),
        skipped=[],
    )
    trainer = L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    execution, _ = choose_execution(
        stage,
        {**NODE, "autotune": True},
        trainer,
        module,
        L.LightningDataModule(),
        lambda: [batch],
        settings.steps,
        model_of=lambda module: getattr(module, "model", module),
    )
    return Contender(module, batch, str(trainer.precision), execution, model)


def make_images(settings: Settings) -> tuple[Tensor, Tensor]:
    """Return random images uint8 `[B, S, S, 3]` and labels int64 `[B]`."""
    shape = (settings.batch, settings.size, settings.size, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8), torch.randint(0, CLASSES, shape[:1])


@functools.cache
def make_once(make: Make, stage: Stage, settings: Settings) -> Contender:
    """Make a contender at the first turn of this process."""
    return make(stage, settings)


def time_step(make: Make, stage: Stage, settings: Settings) -> float:
    """Return the seconds of a step: the least of some."""
    made = make_once(make, stage, settings)
    with quiet():
        times = time_steps(
            *(stage, NODE, made.precision, made.execution, made.module, made.batch, settings.seconds), model=made.model
        )
    return min(times[1:])


def parse_arguments() -> Settings:
    """Return the command line's arguments."""
    parser = ArgumentParser(prog="python -m benchmarks.plain_module", description=__doc__)
    backbone, *options = fields(Settings)
    parser.add_argument(backbone.name, help=backbone.metadata["help"])
    for option in options:
        parser.add_argument(
            f"--{option.name}", type=type(option.default), default=option.default, help=option.metadata["help"]
        )
    return Settings(**vars(parser.parse_args()))


def main() -> None:
    """Print the images per second of both, and their ratio, for training and prediction."""
    settings = parse_arguments()
    print(f"{settings.backbone}, {settings.size} px, batch {settings.batch}, {torch.get_num_threads()} threads")
    stages: tuple[Stage, ...] = ("fit", "predict")
    contenders: tuple[Make, ...] = (make_plain, make_own)
    for stage in stages:
        processes = [ProcessPoolExecutor(1, get_context("spawn"), exit_with_parent) for _ in contenders]
        rounds = [
            [
                process.submit(time_step, make, stage, settings).result()
                for process, make in zip(processes, contenders, strict=True)
            ]
            for _ in range(settings.rounds)
        ]
        for process in processes:
            process.shutdown()
        plain, own = (settings.batch / median(times) for times in zip(*rounds, strict=True))
        ratio = median(first / second for first, second in rounds)
        name = "training" if stage == "fit" else "prediction"
        print(f"{name}: plain {plain:.1f} images/s, this project {own:.1f}, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
