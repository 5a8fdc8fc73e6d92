"""A run's predictions of a split from its best checkpoint: what `python src/predict.py` does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from omegaconf import DictConfig
from torch import Tensor

from flowers.data.datamodule import FlowersDataModule
from flowers.errors import InputError
from flowers.inference.predictions import PredictionsWriter, Provenance
from flowers.inference.submission import write_submission
from flowers.inference.tta import TTA, View, mean_over_views
from flowers.instantiate import instantiate
from flowers.interfaces import NO_LABEL, Batch
from flowers.models.classifier import FlowerClassifier
from flowers.models.image_sizes import check_image_sizes
from flowers.training.runs import Run, digest_weights


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: the files, the number of rows, what was wrong with each record that was skipped."""

    files: list[Path]
    rows: int
    skipped: set[str]


class Predictor(L.LightningModule):
    """A model that gives the mean of its probabilities over views of each picture."""

    def __init__(self, model: FlowerClassifier, views: Sequence[View]) -> None:
        super().__init__()
        self.model = model
        self._views = views

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities float32 `[B, K]`."""
        return mean_over_views(self.model, self._views, batch["image"])


class _BatchWriter(Callback):
    """Writes the valid rows of each batch, once it has a writer."""

    def __init__(self) -> None:
        self.writer: PredictionsWriter | None = None
        self.skipped: set[str] = set()
        self._images = 0
        self._start = 0.0
        self._end = 0.0

    @property
    def images_per_second(self) -> float | None:
        """From the end of the first batch, which waits for workers and compilers; None if there was no other."""
        return self._images / (self._end - self._start) if self._images else None

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.skipped.update(batch["skipped"])
        if self.writer is None:
            return
        # On the host: on a device that compiles, a selection by value would be a program for each number of rows.
        valid = batch["valid"].cpu()
        labels = [None if label == NO_LABEL else label for label in batch["label"].cpu()[valid].tolist()]
        ids = [identity for identity, row in zip(batch["id"], valid.tolist(), strict=True) if row]
        self.writer.write(ids, labels, outputs.cpu().numpy()[valid.numpy()])
        self._end = time.perf_counter()
        if batch_idx == 0:
            self._start = self._end
        else:
            self._images += len(ids)


def predict(config: DictConfig) -> Written:
    """Write `predictions/SPLIT.parquet` into the run's directory and, for the test split, `submission.csv`.

    Raises:
        InputError: no such run, bad data or weights, an id twice, a probability that is not a finite number, or a limit
            on the batches; see the message.
    """
    run = Run(Path(config.run))
    recorder = _BatchWriter()
    trainer = _make_trainer(config, run, recorder)
    datamodule, model = run.load(config.data, config.split, trust=config.trust)
    tta: TTA = instantiate(config.tta)
    check_image_sizes(model.backbone, tta.sides(datamodule.eval_size))
    predictor = Predictor(model, tta.views(datamodule.eval_size))
    loader = datamodule.loader(config.split)
    if config.trainer.fast_dev_run:
        trainer.predict(predictor, loader, return_predictions=False)
        return Written([], 0, recorder.skipped)
    provenance = _describe(run, config.split, datamodule, model, str(tta))
    files = [run.predictions(config.split)]
    with PredictionsWriter(files[0], model.class_names) as recorder.writer:
        trainer.predict(predictor, loader, return_predictions=False)
        skipped = recorder.skipped | datamodule.skipped
        speed = recorder.images_per_second
        recorder.writer.finish(replace(provenance, images_per_second=speed, skipped=len(skipped)))
    if config.split == "test":
        write_submission(files[0], run.submission)
        files.append(run.submission)
    return Written(files, recorder.writer.count, skipped)


def _make_trainer(config: DictConfig, run: Run, recorder: _BatchWriter) -> L.Trainer:
    trainer: L.Trainer = instantiate(
        config.trainer,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        default_root_dir=str(run.best.parent),  # has none of SLURM's checkpoints, which Lightning would load
    )
    if trainer.world_size > 1:
        raise InputError(
            f"trainer: expected one process to predict, as one writes the file, found {trainer.world_size}. Set "
            "trainer.devices=1, or predict on a single TPU host with trainer=tpu."
        )
    if not config.trainer.fast_dev_run:
        _check_whole_split(trainer)
    return trainer


def _describe(run: Run, split: str, datamodule: FlowersDataModule, model: FlowerClassifier, tta: str) -> Provenance:
    return Provenance(
        run=str(run.directory),
        split=split,
        image_size=datamodule.image_size,
        tta=tta,
        class_names=model.class_names,
        eval_size=datamodule.eval_size,
        backbone=run.config().model.backbone,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_on=datamodule.train_on,
        folds=datamodule.folds,
        fold=datamodule.fold,
        recipe=run.recipe(),
        weights=digest_weights(model.state_dict()),
    )


def _check_whole_split(trainer: L.Trainer) -> None:
    """Raise `InputError` if only part of the split would be predicted: the files would pass for whole ones."""
    limit: int | float = trainer.limit_predict_batches
    if limit != 1.0 or isinstance(limit, int):
        raise InputError(
            f"trainer.limit_predict_batches={limit}: expected none, as the predictions and the submission hold a whole "
            "split. Leave it out; to try the command without writing, set trainer.fast_dev_run=true."
        )
