"""Time a training step with the project's own model, trainer and loops, on random images."""

from __future__ import annotations

import functools
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from flowers.errors import InputError
from flowers.instantiate import instantiate
from flowers.interfaces import Batch
from flowers.models.classifier import FlowerClassifier
from flowers.settings import Node, Paths, Positive, Seed, split_own
from flowers.training.compilation import CompileCounts, Compiling
from flowers.training.execution import Execution, executing
from flowers.training.lightning_trainer import TRAINER
from flowers.training.pair import MODEL

WINDOW = 5
"""Steps between two readings of the clock. At each reading the host must wait for the device."""


@dataclass(frozen=True, slots=True)
class StepBenchmark:
    """The result of one measurement. The last four fields are None where nothing counts compilations.

    device: the kind and number of devices.
    batch_size: the batch size of all processes together.
    start_seconds: the extra time of the first steps, mostly for compilation.
    step_seconds: the time of a step: the median over windows of five steps.
    compilations: the number of programs compiled in the whole run.
    compile_seconds: the time of these compilations.
    late_compilations: the number of compilations during the measured steps, where there should be none.
    fallbacks: the number of operations run on the host during the measured steps.
    """

    time: str
    device: str
    backbone: str
    image_size: int
    precision: str
    batch_size: int
    start_seconds: float
    step_seconds: float
    compilations: int | None = None
    compile_seconds: float | None = None
    late_compilations: int | None = None
    fallbacks: int | None = None

    @property
    def images_per_second(self) -> float:
        """Return the images per second of all processes together."""
        return self.batch_size / self.step_seconds


class _Clock(Callback):
    """Times the warm-up and each window after it."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.warmup_seconds = 0.0
        self.windows: list[float] = []
        self.counts: list[CompileCounts] = []
        self._start = 0.0

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._count(trainer)

    def _count(self, trainer: L.Trainer) -> None:
        if isinstance(trainer.strategy, Compiling):
            self.counts.append(trainer.strategy.compile_counts())

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = batch_idx + 1 - self.warmup
        if steps < 0 or steps % WINDOW:
            return
        outputs["loss"].cpu()  # waits for the device
        now = time.perf_counter()
        if steps == 0:
            self.warmup_seconds = now - self._start
        else:
            self.windows.append((now - self._start) / WINDOW)
        self._count(trainer)
        self._start = time.perf_counter()


@dataclass(frozen=True, slots=True)
class StepSettings:
    """The settings of `python -m benchmarks.step`; configs/benchmark_step.yaml explains each of them."""

    model: Node
    optimizer: Node
    trainer: Node
    paths: Paths
    image_size: Positive
    batch_size: Positive
    class_count: Positive
    warmup: Positive
    steps: Positive
    seed: Seed
    results: str


RULES = {"trainer": TRAINER, "model": MODEL}


def benchmark_step(settings: StepSettings) -> StepBenchmark:
    """Time training steps as configured in configs/benchmark_step.yaml.

    Raises:
        InputError: there are too few steps, or the trainer or the model refuses its settings.
    """
    if settings.steps < WINDOW:
        raise InputError(f"steps={settings.steps}: expected at least {WINDOW}, over which the time is measured.")
    if settings.trainer.get("autotune"):
        raise InputError("trainer.autotune=true: expected false, as this command times one choice. Leave it out.")
    L.seed_everything(settings.seed, verbose=False)
    clock = _Clock(settings.warmup)
    lightning_settings, execution = split_own(settings.trainer, Execution)
    trainer: L.Trainer = instantiate(
        "trainer",
        lightning_settings,
        callbacks=[clock],
        default_root_dir=str(Path(settings.results).parent),
        max_epochs=1,
        max_steps=settings.warmup + settings.steps,
        limit_val_batches=0,
        use_distributed_sampler=False,  # every process repeats the same batch
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    model: FlowerClassifier = instantiate(
        "model",
        settings.model,
        class_names=[f"class {label}" for label in range(settings.class_count)],
        optimizer=instantiate("optimizer", settings.optimizer),
        scheduler=functools.partial(ConstantLR, factor=1.0),
        image_size=settings.image_size,
    )
    model.check_image_sizes({"image_size": [settings.image_size]})
    warnings.filterwarnings("ignore", message=".*no `val_dataloader`")
    with executing(execution, model, trainer):
        trainer.fit(model, _loader(settings))
    if not clock.windows:
        raise InputError(
            f"steps={settings.steps}: expected {settings.warmup + settings.steps} steps with the warm-up, but the "
            "trainer stopped before. Leave trainer.fast_dev_run and trainer.limit_train_batches unchanged."
        )
    step = statistics.median(clock.windows)
    whole = clock.counts[-1].since(clock.counts[0]) if clock.counts else None
    late = clock.counts[-1].since(clock.counts[1]) if clock.counts else None
    return StepBenchmark(
        time=datetime.now().isoformat(timespec="seconds"),
        device=_device(trainer),
        backbone=settings.model["backbone"],
        image_size=settings.image_size,
        precision=str(settings.trainer["precision"]),
        batch_size=settings.batch_size * trainer.world_size,
        start_seconds=max(0.0, clock.warmup_seconds - settings.warmup * step),
        step_seconds=step,
        compilations=whole.compilations if whole else None,
        compile_seconds=whole.seconds if whole else None,
        late_compilations=late.compilations if late else None,
        fallbacks=sum(late.fallbacks.values()) if late else None,
    )


def _loader(settings: StepSettings) -> DataLoader[Batch]:
    """Return a loader of the same random batch for each step: reading and decoding are not measured here."""
    size = (settings.batch_size, settings.image_size, settings.image_size, 3)
    batch = Batch(
        image=torch.randint(0, 256, size, dtype=torch.uint8),
        label=torch.randint(0, settings.class_count, size[:1]),
        id=[""] * settings.batch_size,
        valid=torch.ones(size[0], dtype=torch.bool),
        skipped=[],
    )
    rows = range(settings.batch_size * (settings.warmup + settings.steps))
    loader = DataLoader(cast(Any, rows), settings.batch_size, collate_fn=lambda _: batch)
    return cast(DataLoader[Batch], loader)


def _device(trainer: L.Trainer) -> str:
    if isinstance(trainer.strategy, Compiling):
        return trainer.strategy.device_name()
    if trainer.strategy.root_device.type == "cuda":
        return f"{torch.cuda.get_device_name(trainer.strategy.root_device)} x {trainer.num_devices}"
    return f"{trainer.strategy.root_device.type.upper()}, {torch.get_num_threads()} threads x {trainer.num_devices}"


@rank_zero_only
def write_result(path: Path, result: StepBenchmark) -> None:
    """Append a result to a file of results, as one line of JSON. Only the first process writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def read_results(path: Path) -> Sequence[StepBenchmark]:
    """Return the results in a file, the oldest first; empty if there is no file.

    Raises:
        InputError: a line is not a result.
    """
    results: list[StepBenchmark] = []
    if not path.exists():
        return results
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            results.append(StepBenchmark(**json.loads(line)))
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{path}, line {number}: expected a result of `python -m benchmarks.step`, found {error}. Remove "
                "the line, or name another file with results=PATH."
            ) from error
    return results
