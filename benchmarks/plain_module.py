"""Compare this project's training step and prediction with those of a plain Lightning module.

The plain one is what a first program does: 32 bits, the default memory format, float images that were normalised on the
host, no compilation. This project's runs as `trainer.autotune=true` chooses. Both have the same backbone with random
weights, batch, optimizer and trainer, and take turns in one process: python -m benchmarks.plain_module BACKBONE
"""

from __future__ import annotations

import functools
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from statistics import median
from typing import Any

import lightning as L
import timm
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torch.optim.lr_scheduler import ConstantLR

from flowers.inference.predict import Predictor
from flowers.inference.tta import TTA
from flowers.interfaces import Batch
from flowers.models.classifier import FlowerClassifier
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


@dataclass(frozen=True, slots=True)
class Comparison:
    """One stage of both modules: the modules, their batches, and how this project's is run."""

    stage: Stage
    plain: L.LightningModule
    plain_batch: Any
    own: L.LightningModule
    own_batch: Batch
    precision: str
    execution: Execution

    def time(self, seconds: float) -> tuple[float, float]:
        """Return the times of a step of the plain module and of this project's: the least of some."""
        plain = time_steps(
            *(self.stage, NODE, "32-true", Execution(), self.plain, self.plain_batch, seconds),
        )
        own = time_steps(
            *(self.stage, NODE, self.precision, self.execution, self.own, self.own_batch, seconds),
            model=getattr(self.own, "model", self.own),
        )
        return min(plain[1:]), min(own[1:])


def make_comparison(stage: Stage, arguments: Namespace) -> Comparison:
    """Create both modules, and tune this project's."""
    shape = (arguments.batch, arguments.size, arguments.size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.randint(0, CLASSES, shape[:1])
    model = FlowerClassifier(
        class_names=[f"class {label}" for label in range(CLASSES)],
        backbone=arguments.backbone,
        label_smoothing=0.1,
        optimizer=MAKE_OPTIMIZER,
        scheduler=functools.partial(ConstantLR, factor=1.0),
        image_size=arguments.size,
    )
    own = model if stage == "fit" else Predictor(model, TTA().views(arguments.size))
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
        own,
        L.LightningDataModule(),
        lambda: [batch],
        arguments.steps,
        model_of=lambda module: getattr(module, "model", module),
    )
    floats = ((images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25).contiguous()
    plain = PlainModule(arguments.backbone)
    return Comparison(stage, plain, (floats, labels), own, batch, str(trainer.precision), execution)


def parse_arguments() -> Namespace:
    """Return the command line's arguments."""
    parser = ArgumentParser(prog="python -m benchmarks.plain_module", description=__doc__)
    parser.add_argument("backbone", help="the name of a timm model")
    parser.add_argument("--batch", type=int, default=16, help="images per step")
    parser.add_argument("--size", type=int, default=192, help="the side of the images, in pixels")
    parser.add_argument("--steps", type=int, default=10_000, help="the length of the run that is tuned")
    parser.add_argument("--rounds", type=int, default=5, help="how often both take a turn")
    parser.add_argument("--seconds", type=float, default=5.0, help="the time of a turn")
    return parser.parse_args()


def main() -> None:
    """Print the images per second of both, and their ratio, for training and prediction."""
    arguments = parse_arguments()
    print(f"{arguments.backbone}, {arguments.size} px, batch {arguments.batch}, {torch.get_num_threads()} threads")
    for stage in ("fit", "predict"):
        with isolate_rng():
            comparison = make_comparison(stage, arguments)
        with quiet():
            rounds = [comparison.time(arguments.seconds) for _ in range(arguments.rounds)]
        plain, own = (arguments.batch / median(times) for times in zip(*rounds, strict=True))
        ratio = median(first / second for first, second in rounds)
        name = "training" if stage == "fit" else "prediction"
        print(f"{name}: plain {plain:.1f} images/s, this project {own:.1f}, ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
