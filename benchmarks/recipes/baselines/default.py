"""Train with the default recipe or a variant: `python src/train.py` with a callback that records predictions."""

from __future__ import annotations

import runpy
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from benchmarks.recipes.result import Predictions, Recorder
from benchmarks.recipes.task import BATCH_SIZE, RUN_OF, Task
from flowers.errors import InputError
from flowers.training.collect_outcomes import CollectOutcomes
from flowers.training.linear_probe import LinearProbe

SCRIPT = Path(__file__).resolve().parents[3] / "src" / "train.py"


def run(task: Task, recorder: Recorder) -> None:
    """Run the command in this process. Its run directory is removed afterwards, unless another task needs it."""
    RecordEpochs.recorder = recorder
    kept = task.run_of(task.name)
    shutil.rmtree(kept, ignore_errors=True)  # of a training that was killed, or is run again
    with tempfile.TemporaryDirectory() as directory:
        sys.argv = [str(SCRIPT), *make_overrides(task, kept if task.keeps_run else Path(directory) / "run")]
        print("python", *sys.argv, flush=True)
        runpy.run_path(str(SCRIPT), run_name="__main__")


def make_overrides(task: Task, directory: Path) -> list[str]:
    """Return the overrides of a training in a run directory. The task's own come last and so take precedence.

    Raises:
        InputError: the run that an override refers to was not kept.
    """
    for name in task.needs:
        if not task.run_of(name).is_dir():
            raise InputError(
                f"{task.run_of(name)}: no such run. It was trained before another variant needed it: delete "
                f"{name}-seed-{task.seed}.json beside `runs`, and run the benchmark again."
            )
    return [
        "data=tfrecords",
        f"data.root={quote(str(task.root))}",
        f"data.image_size={task.image_size}",
        f"data.batch_size={BATCH_SIZE}",
        f"trainer.max_epochs={task.epochs}",
        f"seed={task.seed}",
        "logger=csv",
        "report=false",
        f"hydra.run.dir={quote(str(directory))}",
        f"+callbacks.record_epochs._target_={__name__}.{RecordEpochs.__name__}",
        *(RUN_OF.sub(lambda match: str(task.run_of(match[1])), override) for override in task.overrides),
    ]


def quote(value: str) -> str:
    """Quote a string for Hydra's command line."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'") if "'" in value else value
    return f"'{escaped}'"


class RecordEpochs(Callback):
    """Records the predictions of each validation, with averaged weights if the recipe averages them.

    A model whose head the linear probe has fitted is also validated before its first step, as epoch 0.
    """

    recorder: ClassVar[Recorder]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if any(isinstance(callback, LinearProbe) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            with isolate_rng():  # a loader draws a seed
                self.recorder.record(0, predict_val(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.recorder.images_trained += len(batch["label"]) * trainer.world_size

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return  # the validation of the best checkpoint, which was chosen by its score
        callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        (collected,) = (callback for callback in callbacks if isinstance(callback, CollectOutcomes))
        outcomes = collected.outcomes
        if outcomes is not None:
            predictions = Predictions(outcomes.ids, outcomes.labels, outcomes.probabilities)
            self.recorder.record(trainer.current_epoch + 1, predictions)


@torch.no_grad()
def predict_val(trainer: L.Trainer, model: L.LightningModule) -> Predictions:
    """Predict the validation split with a model in training."""
    ids: list[str] = []
    labels, probabilities = [], []
    model.eval()
    for batch in trainer.datamodule.loader("val"):  # type: ignore[attr-defined]
        valid = batch["valid"]
        image = trainer.strategy.batch_to_device(batch)["image"]
        ids += [identity for identity, kept in zip(batch["id"], valid.tolist(), strict=True) if kept]
        labels.append(batch["label"][valid])
        probabilities.append(model(image).float().softmax(1).cpu()[valid])
    model.train()
    return Predictions(ids, torch.cat(labels).numpy(), torch.cat(probabilities).numpy())
