"""Predict a split with a run's best checkpoint: what `python src/predict.py` does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig
from torch import Tensor

from flowers.data.datamodule import FlowersDataModule
from flowers.data.layout import Split
from flowers.errors import InputError
from flowers.inference.evaluate import RunSettings
from flowers.inference.submission import write_best_classes, write_submission
from flowers.inference.tta import TTA, View, mean_over_views
from flowers.instantiate import instantiate
from flowers.interfaces import NO_LABEL, Batch, ChecksImageSizes, HasLicence, LoadsSplits, valid_rows
from flowers.preparation.reader import PhotographReader
from flowers.settings import Node, load_settings
from flowers.training.callbacks import Stopwatch
from flowers.training.checkpoints import digest_weights
from flowers.training.execution import executing
from flowers.training.lightning_trainer import TRAINER, make_plain_trainer
from flowers.training.pair import class_names_of
from flowers.training.predictions import PredictionsWriter, Provenance
from flowers.training.runs import Run
from flowers.training.tuning import choose_execution

PHOTOGRAPHS = "photographs"
"""The name of the predictions of image files that are in no data set."""


@dataclass(frozen=True, slots=True)
class PredictionResult:
    """The result of a prediction.

    files: the files that were written.
    rows: the number of rows.
    skipped: why each skipped record was skipped.
    images_per_second: the speed after the first batch; None if it is the only one.
    """

    files: list[Path]
    rows: int
    skipped: set[str]
    images_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class PredictSettings(RunSettings):
    """The settings of `python src/predict.py`: those of any run, and these.

    split: the split to predict.
    photographs: a directory of image files, or one of them, to predict instead; None: predict the split.
    tta: the test-time augmentation.
    """

    split: Split
    photographs: str | None
    tta: Node


class Predictor(L.LightningModule):
    """Averages a model's probabilities over views of each image."""

    def __init__(self, model: L.LightningModule, views: Sequence[View]) -> None:
        super().__init__()
        self.model = model
        self._views = views

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean probabilities of a batch, float32 `[B, K]`."""
        return mean_over_views(self.model, self._views, batch["image"])


class _BatchWriter(Callback):
    """Writes the valid rows of each batch, once it has a writer."""

    def __init__(self) -> None:
        self.writer: PredictionsWriter | None = None
        self.skipped: set[str] = set()
        self.stopwatch = Stopwatch()

    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self.skipped.update(batch.get("skipped", ()))
        if self.writer is None:
            return
        if "id" not in batch:
            raise InputError("data: expected batches with ids, found none. Add the key id: a list of str.")
        # On the host: on a compiling device, selecting by value would compile a program for each number of rows.
        valid = valid_rows(batch).cpu()
        labels = [None if label == NO_LABEL else label for label in batch["label"].cpu()[valid].tolist()]
        ids = [identity for identity, row in zip(batch["id"], valid.tolist(), strict=True) if row]
        self.writer.write(ids, labels, outputs.cpu().numpy()[valid.numpy()])
        self.stopwatch.add(len(ids))


def predict(config: DictConfig) -> PredictionResult:
    """Write `predictions/SPLIT.parquet` into the run's directory and, for the test split, `submission.csv`.

    For photographs, write `predictions/photographs.parquet` and `photographs.csv`.

    Raises:
        InputError: there is no such run, bad data or weights, a repeated id, a probability that is not a finite number,
            or a limit on the batches; see the message.
    """
    settings = load_settings(PredictSettings, config, {"trainer": TRAINER})
    run, split = Run(Path(settings.run)), "test" if settings.photographs else settings.split
    recorder = _BatchWriter()
    trainer = _make_trainer(settings, run, recorder)
    datamodule, model = run.load(asdict(settings.data), split, trust=settings.trust)
    data, class_names = _check_predictable(datamodule, model)
    predictor, tta = _make_predictor(settings, datamodule, model)
    datamodule.setup("predict")

    def make_loader() -> Iterable[Batch]:
        if settings.photographs:
            return _photograph_loader(datamodule, settings.photographs)
        return data.loader(split)

    execution, _ = choose_execution(
        "predict",
        settings.trainer,
        trainer,
        predictor,
        datamodule,
        make_loader,
        model_of=lambda copied: copied.model,
    )
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        with executing(execution, model, trainer):
            trainer.predict(predictor, make_loader(), return_predictions=False)
        return PredictionResult([], 0, recorder.skipped)
    name = PHOTOGRAPHS if settings.photographs else split
    provenance = _describe(run, name, datamodule, model, class_names, tta)
    files = [run.predictions(name)]
    with PredictionsWriter(files[0], class_names) as recorder.writer:
        with executing(execution, model, trainer):
            trainer.predict(predictor, make_loader(), return_predictions=False)
        skipped: set[str] = recorder.skipped | getattr(datamodule, "skipped", set())
        speed = recorder.stopwatch.images_per_second
        recorder.writer.finish(replace(provenance, images_per_second=speed, skipped=len(skipped)))
    if name == PHOTOGRAPHS:
        files.append(files[0].with_suffix(".csv"))
        write_best_classes(files[0], files[-1])
    elif split == "test":
        write_submission(files[0], run.submission)
        files.append(run.submission)
    return PredictionResult(files, recorder.writer.count, skipped, speed)


def _photograph_loader(datamodule: L.LightningDataModule, source: str) -> Iterable[Batch]:
    """Return batches of image files, cropped and resized as `prepare.py folder` does."""
    if not isinstance(datamodule, FlowersDataModule):
        raise InputError(
            f"photographs={source}: expected a run on FlowersDataModule, found {type(datamodule).__name__}. Predict "
            "one of its splits instead: photographs=null split=test."
        )
    reader = PhotographReader(source, datamodule.image_size)
    return datamodule.loader_of(reader, threaded=reader.is_remote)


def _check_predictable(datamodule: L.LightningDataModule, model: L.LightningModule) -> tuple[LoadsSplits, list[str]]:
    """Return the data module, which loads splits, and the class names.

    Raises:
        InputError: the data module or the model lacks something that predicting needs.
    """
    if not isinstance(datamodule, LoadsSplits):
        raise InputError(
            f"data: {type(datamodule).__name__} has no loader(split), which predict.py needs. Add the method: "
            "see flowers.interfaces.LoadsSplits."
        )
    if not is_overridden("forward", model, L.LightningModule):
        raise InputError(
            f"model: {type(model).__name__} has no forward(image), which predict.py needs. Add the method: "
            "see flowers.interfaces.GivesLogits."
        )
    class_names = class_names_of(datamodule) or class_names_of(model)
    if class_names is None:
        raise InputError(
            f"data: {type(datamodule).__name__} has no class_names, which predict.py needs. Add the attribute: a list "
            "of str in label order."
        )
    return datamodule, class_names


def _make_predictor(
    settings: PredictSettings, datamodule: L.LightningDataModule, model: L.LightningModule
) -> tuple[Predictor, TTA]:
    tta: TTA = instantiate("tta", settings.tta)
    side: int | None = getattr(datamodule, "eval_size", None)
    if side is None:
        if str(tta) != str(TTA()):
            raise InputError(
                f"tta: expected none, as {type(datamodule).__name__} has no eval_size, the side of its images in "
                "pixels. Add the attribute, or leave tta out."
            )
        return Predictor(model, [_identity]), tta
    if isinstance(model, ChecksImageSizes):
        model.check_image_sizes(tta.sides(side))
    return Predictor(model, tta.views(side)), tta


def _identity(images: Tensor) -> Tensor:
    return images


def _make_trainer(settings: PredictSettings, run: Run, recorder: _BatchWriter) -> L.Trainer:
    trainer = make_plain_trainer(settings.trainer, run.best.parent, [recorder])
    if trainer.world_size > 1:
        raise InputError(
            f"trainer: expected one process to predict, as one writes the file, found {trainer.world_size}. Set "
            "trainer.devices=1, or predict on a single TPU host with trainer=tpu."
        )
    if not trainer.fast_dev_run:  # type: ignore[attr-defined]
        _check_whole_split(trainer)
    return trainer


def _describe(
    run: Run, split: str, datamodule: L.LightningDataModule, model: L.LightningModule, class_names: list[str], tta: TTA
) -> Provenance:
    return Provenance(
        run=str(run.directory),
        split=split,
        image_size=getattr(datamodule, "image_size", None),
        tta=str(tta),
        class_names=class_names,
        eval_size=getattr(datamodule, "eval_size", None),
        backbone=run.config().model.get("backbone") or type(model).__name__,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained_on=getattr(datamodule, "train_on", "train"),
        folds=getattr(datamodule, "folds", None),
        fold=getattr(datamodule, "fold", None),
        recipe=run.recipe(),
        weights=digest_weights(model.state_dict()),
        licence=model.licence if isinstance(model, HasLicence) else "",
    )


def _check_whole_split(trainer: L.Trainer) -> None:
    """Raise `InputError` if only part of the split would be predicted: the files would look complete."""
    limit: int | float = trainer.limit_predict_batches
    if limit != 1.0 or isinstance(limit, int):
        raise InputError(
            f"trainer.limit_predict_batches={limit}: expected none, as the predictions and the submission hold a whole "
            "split. Leave it out; to try the command without writing, set trainer.fast_dev_run=true."
        )
