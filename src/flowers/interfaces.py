"""Define the contracts between the packages: the batch, and what the commands need from a data module and a model.

`train()` takes any LightningDataModule and any LightningModule. It calls the data module's `prepare_data` and
`setup("fit")` before Lightning does, to find bad data before any slow work. Every process of a run calls both, and
more than once. The protocols below list the optional methods and attributes, and those that `predict.py` requires.
`docs/your-own.md` shows an example of both.
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
    """A batch of `B` samples, as `FlowersDataModule` yields it and `FlowerClassifier` takes it.

    Other data modules may leave out the last four keys. All rows are valid then.

    image: uint8 `[B, H, W, 3]`, RGB.
    label: int64 `[B]`, `NO_LABEL` where the split has none.
    id: the images' ids, empty where not valid.
    valid: bool `[B]`, False for padding and for records that could not be read.
    skipped: the reason for each skipped record; of any length.
    teacher: float32 `[B, K]`, a teacher's probabilities; the distilled model adds them in training.
    """

    image: Tensor
    label: Tensor
    id: NotRequired[list[str]]
    valid: NotRequired[Tensor]
    skipped: NotRequired[list[str]]
    teacher: NotRequired[Tensor]


def valid_rows(batch: Batch) -> Tensor:
    """Return which rows of a batch are valid, bool `[B]`: all of them if the batch has no `valid`."""
    return batch["valid"] if "valid" in batch else torch.ones_like(batch["label"], dtype=torch.bool)


@runtime_checkable
class DeclaresMetrics(Protocol):
    """A model that declares what it logs, so that `monitor.metric` is checked before training.

    metric_modes: the names of its metrics, and for each whether the lowest (`min`) or the highest (`max`) is best.
    """

    metric_modes: Mapping[str, Literal["min", "max"]]


@runtime_checkable
class HasClassNames(Protocol):
    """A data module or a model with named classes. `predict.py` needs the names, and ensembles compare them.

    class_names: in label order.
    """

    class_names: Sequence[str]


@runtime_checkable
class ChecksImageSizes(Protocol):
    """A model that accepts only some image sizes."""

    def check_image_sizes(self, sizes: Mapping[str, Iterable[int]]) -> None:
        """Raise `InputError` unless the model accepts all these image sides, in pixels, by the setting's name."""
        ...


@runtime_checkable
class CountsBatches(Protocol):
    """A data module that knows the length of an epoch without making a loader."""

    def count_batches(self, processes: int) -> int:
        """Return the number of batches of a training epoch on each of the processes."""
        ...


@runtime_checkable
class CountsImages(Protocol):
    """A data module that knows the sizes of its splits, for the summary that is printed before training."""

    def count_images(self) -> Mapping[str, int]:
        """Return the number of images of each split, by its name."""
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

    weights: a short description, with the licence.
    """

    weights: str


@runtime_checkable
class HasLicence(Protocol):
    """A model that starts from pretrained weights. Its checkpoints' hyperparameters have the licence as well.

    licence: the licence of these weights; empty if there are none.
    """

    licence: str


@runtime_checkable
class ChecksSplit(Protocol):
    """A data module whose checkpoints record how the data were split."""

    def check_same_split(self, state: Mapping[str, Any]) -> None:
        """Raise `InputError` if `state`, from its `state_dict`, has another split than the configured one."""
        ...


@runtime_checkable
class ReportsSkipped(Protocol):
    """A data module that can skip records that cannot be read."""

    def gather_skipped(self) -> set[str]:
        """Return the reason for each skipped record, from all processes of the run. All processes must call it."""
        ...


@runtime_checkable
class LoadsSplits(Protocol):
    """A data module whose splits can be predicted. Its batches are `Batch`es with ids."""

    def loader(self, split: Literal["train", "val", "test"]) -> Iterable[Batch]:
        """Return the batches of a split, each image once, in order and without augmentation."""
        ...


@runtime_checkable
class SamplesSplits(Protocol):
    """A data module that can sample a split."""

    def sample(self, split: Literal["train", "val", "test"], count: int) -> Iterable[Batch]:
        """Return batches of at most `count` images, drawn from the whole split, without augmentation."""
        ...


@runtime_checkable
class GivesLogits(Protocol):
    """A model whose predictions can be written."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits `[B, K]` of images uint8 `[B, H, W, 3]`."""
        ...


@runtime_checkable
class HasNetwork(Protocol):
    """A model with one part that `trainer.compile` compiles, and that `trainer.channels_last` converts."""

    def get_network(self) -> nn.Module:
        """Return the part that computes the logits from images float `[B, C, H, W]`."""
        ...


@runtime_checkable
class HasLinearHead(Protocol):
    """A model whose head can be fitted to frozen features before training (`callbacks.linear_probe`)."""

    def features(self, image: Tensor) -> Tensor:
        """Return the features that the head takes, float `[B, F]`, of images uint8 `[B, H, W, 3]`."""
        ...

    def linear_head(self) -> nn.Linear | None:
        """Return the layer that turns features into logits; None if there is none, or it should not be fitted."""
        ...


@runtime_checkable
class ShowsImages(Protocol):
    """A data module whose images can be shown in reports and dashboards."""

    def images(self, split: Literal["train", "val", "test"], places: Sequence[int]) -> Sequence[NDArray[np.uint8]]:
        """Return images of a split, uint8 `[H, W, 3]`, by their positions in `loader(split)`, without augmentation."""
        ...


@runtime_checkable
class ListsTrainingIds(Protocol):
    """A data module that lists its training images, so that a teacher's missing predictions are found early."""

    def training_ids(self) -> Sequence[str]:
        """Return the ids of the readable training images, in any order."""
        ...


@runtime_checkable
class LearnsFromTeacher(Protocol):
    """A model that can be distilled. `train.py` loads the teacher that the setting `model.teacher` names."""

    def learn_from(self, teacher: Any) -> None:
        """Set the teacher before training: a `SoftTargets` or a `LiveTeacher` of `flowers.models.distillation`."""
        ...


@runtime_checkable
class CompletesBatches(Protocol):
    """A model that adds to training batches on the host.

    A device with prefetching calls it in a thread, before the batch is sent. Elsewhere the training step calls it.
    """

    def complete_batch(self, batch: Batch) -> Batch:
        """Return a training batch with everything that the model needs. A complete batch is returned unchanged."""
        ...


@runtime_checkable
class ShowsTrainingImages(Protocol):
    """A model that changes the images of a batch before it trains on them."""

    def training_images(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return a batch's images as the model trains on them, uint8 `[B, H, W, 3]`, on the host."""
        ...
