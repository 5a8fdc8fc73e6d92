"""Find and load the teacher in `model.teacher`: a predictions file, or the directory of a run or of an ensemble.

Predictions of the training split are preferred, because they cost no time in training. For a run without them, the
model of its best checkpoint predicts every batch: a live teacher.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.model_helpers import is_overridden
from numpy.typing import NDArray

from flowers.data.class_names import class_difference
from flowers.errors import InputError
from flowers.interfaces import HasLicence, ListsTrainingIds
from flowers.models.distillation import LiveTeacher, SoftTargets, Teacher
from flowers.settings import Node
from flowers.targets import locate
from flowers.training.checkpoints import digest_weights, read_checkpoint
from flowers.training.pair import check_sizes, class_names_of, has_validation
from flowers.training.predictions import Provenance, read_ids, read_provenance, read_rows
from flowers.training.row_checks import RowProblems, first_rows
from flowers.training.runs import Run

log = logging.getLogger(__name__)

KEY = "model.teacher"


def find_teacher(node: Node) -> Path | Run | None:
    """Find the teacher in a model's settings: a predictions file, or a run for a live teacher; None for none.

    Nothing is read. The setting is ignored for a model without `learn_from`, where it may mean something else.

    Raises:
        InputError: the path is neither a predictions file nor the directory of a run or of an ensemble.
    """
    name = node.get("teacher")
    if name is None or not hasattr(locate(node["_target_"], "model"), "learn_from"):
        return None
    place = Path(name)
    if place.is_file():
        return place
    for file in (place / "predictions" / "train.parquet", place / "train.parquet"):
        if file.is_file():
            return file
    if (place / "ensemble.json").is_file():
        raise InputError(
            f"{KEY}={name}: expected the ensemble's predictions of the training split, predictions/train.parquet, "
            "found none. Predict that split with each member (python src/predict.py run=DIR split=train), then blend "
            "again."
        )
    if (place / "config.yaml").is_file():
        return Run(place)
    raise InputError(
        f"{KEY}={name}: expected the directory of a run or of an ensemble, or a predictions file, found "
        f"{'none of them' if place.exists() else 'no such file or directory'}. `python src/train.py` and "
        "`python src/ensemble.py` print their directories."
    )


def load_teacher(found: Path | Run, datamodule: L.LightningDataModule) -> Teacher:
    """Load a teacher for the training images of a data module.

    Raises:
        InputError: the teacher has other classes, lacks images, or may not be loaded.
    """
    # Creating a model draws random numbers. The student's must not depend on the teacher.
    with torch.random.fork_rng(devices=[]):
        return _load_model(found, datamodule) if isinstance(found, Run) else _load_file(found, datamodule)


def describe_teacher(teacher: Teacher) -> str:
    """Return a short description of a teacher, with the licence of its weights if it is known."""
    return str(teacher) + (f", weights under {teacher.licence}" if teacher.licence else "")


def _load_model(run: Run, datamodule: L.LightningDataModule) -> LiveTeacher:
    model = run.load_model(
        datamodule,
        f"If you trust it, write its predictions: python src/predict.py run={run.directory} split=train trust=true",
    )
    if not is_overridden("forward", model, L.LightningModule):
        raise InputError(
            f"{KEY}={run.directory}: expected a model with forward(image), found a {type(model).__name__} without it. "
            "Add the method: see flowers.interfaces.GivesLogits."
        )
    check_sizes(model, datamodule, "train_size")
    own = run.config().data
    _warn_if_seen(own.get("train_on", ""), (own.get("folds"), own.get("fold")), datamodule)
    return LiveTeacher(model, str(run.best), model.licence if isinstance(model, HasLicence) else "")


def _load_file(path: Path, datamodule: L.LightningDataModule) -> SoftTargets:
    provenance, class_names = read_provenance(path), class_names_of(datamodule)
    if class_names is not None and (differing := class_difference(class_names, provenance.class_names)):
        raise InputError(
            f"{path}: expected a teacher of the data set's {len(class_names)} classes, found one of {differing}. Give "
            "a teacher that was trained on these classes, in this order."
        )
    _check_weights(path, provenance.weights, datamodule)
    wanted = list(datamodule.training_ids()) if isinstance(datamodule, ListsTrainingIds) else None
    ids = _check_ids(path, provenance, wanted)
    if provenance.split:  # other programs do not record it
        _warn_if_seen(provenance.trained_on, (provenance.folds, provenance.fold), datamodule)
    probabilities = _read_probabilities(path, ids, provenance.class_names)
    return SoftTargets(ids.to_pylist(), probabilities, str(path), provenance.licence)


def _warn_if_seen(trained_on: str, fold: tuple[int | None, int | None], datamodule: L.LightningDataModule) -> None:
    """Warn if the teacher was trained on images that the student is validated on."""
    own = getattr(datamodule, "folds", None), getattr(datamodule, "fold", None)
    if has_validation(datamodule) and (trained_on == "train+val" or fold != own):
        rank_zero_only(log.warning)(
            f"{KEY}: the teacher was trained on images of the student's validation split, so the student's validation "
            "metrics are too good. Use a teacher that was trained with the same data.train_on, data.folds and "
            "data.fold."
        )


def _check_weights(path: Path, weights: str, datamodule: L.LightningDataModule) -> None:
    """Raise `InputError` if a run's predictions come from other weights than its best checkpoint.

    This happens if the run was resumed after its predictions were written.
    """
    best = Run(path.parent.parent).best
    if path.parent.name != "predictions" or not weights or not best.is_file():
        return
    if digest_weights(read_checkpoint(best, datamodule).state) != weights:
        raise InputError(
            f"{path}: expected predictions of {best}, found predictions of other weights. Predict again: python "
            f"src/predict.py run={path.parent.parent} split=train"
        )


def _check_ids(path: Path, provenance: Provenance, wanted: Sequence[str] | None) -> pa.Array:
    """Return the ids of the rows to read: the wanted ones, or all if `wanted` is None.

    Raises:
        InputError: a row has no id, an id occurs twice, or a wanted one is missing.
    """
    ids = read_ids(path)
    if ids.null_count or pc.count_distinct(ids).as_py() < len(ids):
        raise InputError(f"{path}: expected a unique id in each row, found missing or repeated ids. Predict again.")
    if wanted is None:
        return ids
    images = pa.array(sorted(set(wanted)), pa.string())
    missing = images.filter(pc.invert(pc.is_in(images, value_set=ids)))
    if len(missing):
        run = provenance.run if provenance.recipe else "DIR"  # only predict.py records a recipe
        blend = "" if provenance.recipe else " for each member, then blend again"
        raise InputError(
            f"{path}: expected the teacher's predictions of all {len(images)} training images, found {len(missing)} "
            f"missing ({first_rows(missing)}). Predict the images that the student is trained on: python "
            f"src/predict.py run={run} split=train, with data.root=DIR for another data set{blend}."
        )
    return images


def _read_probabilities(path: Path, ids: pa.Array, class_names: Sequence[str]) -> NDArray[np.float32]:
    """Read the probabilities of these ids in their order, float32 `[N, K]`; each row sums to one.

    Raises:
        InputError: a row of the file has invalid probabilities.
    """
    problems = RowProblems(str(path), "Predict again.")
    probabilities = np.zeros((len(ids), len(class_names)), np.float32)
    rows = pc.index_in(read_ids(path), value_set=ids).fill_null(-1).to_numpy(zero_copy_only=False)
    start = 0
    for part in read_rows(path, class_names):
        problems.check(part)
        places = rows[start : start + len(part.ids)]
        start += len(part.ids)
        probabilities[places[places >= 0]] = part.probabilities[places >= 0]
    problems.raise_first()
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities
