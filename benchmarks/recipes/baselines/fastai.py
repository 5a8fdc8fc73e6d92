"""Train with fastai's `fine_tune` as in its book: one epoch of the head alone, then everything."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    DataBlock,
    GrandparentSplitter,
    ImageBlock,
    Normalize,
    aug_transforms,
    get_image_files,
    parent_label,
    set_seed,
    vision_learner,
)

from benchmarks.recipes.folders import FOLDERS, class_folders, export_folders
from benchmarks.recipes.images import count_classes, read_records
from benchmarks.recipes.result import Predictions, Recorder
from benchmarks.recipes.task import BACKBONE, BATCH_SIZE, Task
from benchmarks.recipes.weights import MEAN, STD, wheel_state


def run(task: Task, recorder: Recorder) -> None:
    """Fine-tune for the task's number of epochs, the first of them with the body frozen."""
    with tempfile.TemporaryDirectory() as directory:
        export_folders(task, Path(directory))
        set_seed(task.seed, reproducible=True)
        data = make_data(Path(directory), count_classes(task))
        learner = vision_learner(data, BACKBONE, pretrained=False, normalize=False)
        body = {name: value for name, value in wheel_state().items() if not name.startswith("classifier.")}
        learner.model[0].model.load_state_dict(body)
        ids = [record.id for record in read_records(task, "val")]
        with learner.no_bar(), learner.added_cbs(RecordEpochs(recorder, ids)):
            learner.fine_tune(task.epochs - 1, freeze_epochs=1)


def make_data(directory: Path, class_count: int) -> Any:
    """Return fastai's data loaders of exported folders, with its default augmentation."""
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock(vocab=class_folders(class_count))),
        get_items=get_image_files,
        splitter=GrandparentSplitter(FOLDERS["train"], FOLDERS["val"]),
        get_y=parent_label,
        batch_tfms=[*aug_transforms(), Normalize.from_stats([MEAN] * 3, [STD] * 3)],
    )
    return block.dataloaders(directory, bs=BATCH_SIZE)


class RecordEpochs(Callback):  # type: ignore[misc]
    """Counts training images, and records each validation's predictions.

    Args:
        target: the recorder.
        ids: the ids of the validation images, by the number in the file's name.
    """

    def __init__(self, target: Recorder, ids: list[str]) -> None:
        self.target = target
        self.split_ids = ids
        self.parts: list[tuple[Any, Any]] = []
        self.epochs_done = 0

    def before_validate(self) -> None:
        self.parts = []

    def after_batch(self) -> None:
        if self.training:
            self.target.images_trained += len(self.y)
        else:
            self.parts.append((self.pred.softmax(1).cpu().numpy(), self.y.cpu().numpy()))

    def after_validate(self) -> None:
        self.epochs_done += 1
        probabilities, labels = (np.concatenate(list(part)) for part in zip(*self.parts, strict=True))
        ids = [self.split_ids[int(path.stem)] for path in self.dls.valid_ds.items]
        predictions = Predictions(ids, labels.astype(np.int64), probabilities.astype(np.float32))
        self.target.record(self.epochs_done, predictions)
