"""State the contracts between the packages: the batch, and what the commands need of a data module and of a model.

`train()` takes any LightningDataModule and any LightningModule. It calls the data module's `prepare_data` and
`setup("fit")` before Lightning does, to find bad data before anything slow: every process of a run calls both, and more
than once. The protocols below say which further methods and attributes are used if they are there, and which ones
`predict.py` needs. `docs/your-own.md` shows a pair.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NO_LABEL = -1
"""The label of an image without one."""


class Batch(TypedDict):
    """`B` samples, as `FlowersDataModule` yields them and `FlowerClassifier` takes them.

    The last four may be missing from the batches of another data module: then all rows are valid.

    image: uint8 `[B, H, W, 3]`, RGB.
    label: int64 `[B]`, `NO_LABEL` where the split has none.
    id: the images' ids, empty where not valid.
    valid: bool `[B]`, False for padding and for records that could not be read.
    skipped: why each unreadable record was skipped; no fixed length.
    teacher: float32 `[B, K]`, a teacher's probabilities, which a model that is distilled adds in training.
    """

    image: Tensor
    label: Tensor
    id: NotRequired[list[str]]
    valid: NotRequired[Tensor]
    skipped: NotRequired[list[str]]
    teacher: NotRequired[Tensor]


def valid_rows(batch: Batch) -> Tensor:
    """Return which rows of a batch are valid, bool `[B]`: all of them where the batch does not say."""
    return batch["valid"] if "valid" in batch else torch.ones_like(batch["label"], dtype=torch.bool)


@runtime_checkable
class DeclaresMetrics(Protocol):
    """A model that declares what it logs, so that `monitor.metric` is checked before training.

    metric_modes: the names of its metrics, and for each whether the least (`min`) or the most (`max`) is the best.
    """

    metric_modes: Mapping[str, Literal["min", "max"]]


@runtime_checkable
class HasClassNames(Protocol):
    """A data module, or a model, of named classes. `predict.py` needs them, and ensembles compare them.

    class_names: in label order.
    """

    class_names: Sequence[str]


@runtime_checkable
class ChecksImageSizes(Protocol):
    """A model that cannot take images of any size."""

    def check_image_sizes(self, sizes: Mapping[str, Iterable[int]]) -> None:
        """Raise `InputError` unless it takes images of all these sides in pixels, given by setting."""
        ...


@runtime_checkable
class CountsBatches(Protocol):
    """A data module that knows the length of an epoch without making a loader."""

    def count_batches(self, processes: int) -> int:
        """Return the batches of a training epoch on each of so many processes."""
        ...


@runtime_checkable
class CountsImages(Protocol):
    """A data module that knows the sizes of its splits, for the summary that is printed before training."""

    def count_images(self) -> Mapping[str, int]:
        """Return the numbers of images by the names of the splits."""
        ...


@runtime_checkable
class CountsClasses(Protocol):
    """A data module that knows the sizes of its classes, for a loss that depends on them."""

    def count_classes(self) -> Sequence[int]:
        """Return the number of training images of each class, in label order."""
        ...


@runtime_checkable
class DescribesWeights(Protocol):
    """A model that describes where its weights come from, for the summary that is printed before training.

    weights: in a few words, the licence among them.
    """

    weights: str


@runtime_checkable
class HasLicence(Protocol):
    """A model that starts from somebody's weights. Its checkpoints' hyperparameters have the licence as well.

    licence: of these weights; empty if there are none.
    """

    licence: str


@runtime_checkable
class ChecksSplit(Protocol):
    """A data module whose checkpoints record what it was split by."""

    def check_same_split(self, state: Mapping[str, Any]) -> None:
        """Raise `InputError` if `state`, from its `state_dict`, is of another split than the configured one."""
        ...


@runtime_checkable
class ReportsSkipped(Protocol):
    """A data module that may go on without records that cannot be read."""

    def gather_skipped(self) -> set[str]:
        """Return why each record was skipped, from all processes of the run; all of them call it."""
        ...


@runtime_checkable
class LoadsSplits(Protocol):
    """A data module whose splits can be predicted. Its batches are `Batch`es with ids."""

    def loader(self, split: Literal["train", "val", "test"]) -> Iterable[Batch]:
        """Return the batches of a split, each image once, in order and without augmentation."""
        ...


@runtime_checkable
class SamplesSplits(Protocol):
    """A data module that can give part of a split."""

    def sample(self, split: Literal["train", "val", "test"], count: int) -> Iterable[Batch]:
        """Return the batches of at most `count` images drawn from all of a split, without augmentation."""
        ...


@runtime_checkable
class GivesLogits(Protocol):
    """A model whose predictions can be written."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[B, K]` of images uint8 `[B, H, W, 3]`."""
        ...


@runtime_checkable
class HasLinearHead(Protocol):
    """A model whose head can be fitted to frozen features before training (`callbacks.linear_probe`)."""

    def features(self, image: Tensor) -> Tensor:
        """Return what the head is given, float `[B, F]`, of images uint8 `[B, H, W, 3]`."""
        ...

    def linear_head(self) -> nn.Linear | None:
        """Return the layer that turns features into logits; None if there is none, or features are not worth it."""
        ...


@runtime_checkable
class ShowsImages(Protocol):
    """A data module whose images can be shown in reports and dashboards."""

    def images(self, split: Literal["train", "val", "test"], places: Sequence[int]) -> Sequence[NDArray[np.uint8]]:
        """Return images of a split, uint8 `[H, W, 3]`, by their places in `loader(split)`, without augmentation."""
        ...


@runtime_checkable
class ListsTrainingIds(Protocol):
    """A data module that lists its training images, so that missing predictions of a teacher are found early."""

    def training_ids(self) -> Sequence[str]:
        """Return the ids of the readable training images, in any order."""
        ...


@runtime_checkable
class LearnsFromTeacher(Protocol):
    """A model that can be distilled. `train.py` loads what its setting `teacher` names, and hands it over."""

    def learn_from(self, teacher: Any) -> None:
        """Take a teacher, a `SoftTargets` or a `LiveTeacher` of `flowers.models.distillation`, before training."""
        ...


@runtime_checkable
class CompletesBatches(Protocol):
    """A model that adds to training batches on the host.

    A device that is fed ahead calls it in a thread, before a batch is sent. Elsewhere the training step does it.
    """

    def complete_batch(self, batch: Batch) -> Batch:
        """Return a training batch with what the model needs beside it. A complete batch is returned as it is."""
        ...


@runtime_checkable
class ShowsTrainingImages(Protocol):
    """A model that changes the images of a batch before it trains on them."""

    def training_images(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return a batch's images as they are trained on, uint8 `[B, H, W, 3]`, on the host."""
        ...
