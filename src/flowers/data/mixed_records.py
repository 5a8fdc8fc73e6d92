"""Open several data sets, and join their training records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flowers.data.class_names import class_difference, names_source, read_class_names
from flowers.data.dataset import FlowersDataset
from flowers.data.layout import Split
from flowers.data.mixing import Mixture
from flowers.data.records import SplitRecords
from flowers.data.selection import Selection, SelectionSettings
from flowers.data.storage.remote import AnyPath
from flowers.data.tfrecord.joined_reader import JoinedReader
from flowers.data.tfrecord.reader import ShardReader
from flowers.data.transforms import SeededTransform
from flowers.errors import InputError


def passes_of(
    roots: Sequence[str] | None, weights: Sequence[float] | None, excluded: Mapping[str, object]
) -> Sequence[float]:
    """Return the number of passes per epoch over each of `roots`: `weights`, or one pass over each.

    Args:
        roots: the data sets, if there are several.
        weights: the numbers of passes, if they are set.
        excluded: settings that several data sets do not support, by key.

    Raises:
        InputError: the settings contradict each other.
    """
    if not roots:
        if weights is not None:
            raise InputError(
                f"data.weights={list(weights)}: expected none without data.roots. Set 'data.roots=[DIR,DIR]' as well."
            )
        return ()
    for key, value in excluded.items():
        if value is not None:
            raise InputError(f"{key}={value}: expected null with data.roots. Set {key}=null.")
    if weights is not None and len(weights) != len(roots):
        raise InputError(
            f"data.weights={list(weights)}: expected a weight for each of the {len(roots)} data.roots, found "
            f"{len(weights)}."
        )
    return weights or [1] * len(roots)


class MixedRecords:
    """Selects the records of each split of several data sets, as `SplitRecords` does for one.

    The train split has the training records of all sets. The other splits are those of the first.

    Args:
        sets: the data sets; the first one's settings may have folds, which the others must not have.
        passes: the number of passes per epoch over each set.
    """

    def __init__(self, sets: Sequence[SplitRecords], passes: Sequence[float]) -> None:
        self.sets = sets
        self.passes = tuple(passes)
        self.skipped: set[str] = set()
        """The problems of skipped shards and records."""

    @property
    def settings(self) -> SelectionSettings:
        """Return the settings of the first set, which decide what is validated."""
        return self.sets[0].settings

    @property
    def class_names(self) -> list[str]:
        """Return the class names in label order."""
        return self.sets[0].class_names

    def dataset(self, split: Split, transform: SeededTransform) -> FlowersDataset:
        """Return the data set that a split is selected from."""
        reader = self._reader if split == "train" else self.sets[0].open(split)
        self._collect_problems()
        return self.dataset_of(reader, transform, labelled=split != "test")

    def dataset_of(self, reader: ShardReader, transform: SeededTransform, *, labelled: bool) -> FlowersDataset:
        """Return the data set of a reader's records, with the settings of this one."""
        return self.sets[0].dataset_of(reader, transform, labelled=labelled)

    def select(self, split: Split) -> Selection:
        """Select the records of a split.

        Raises:
            InputError: the split is empty, class names differ between the sets, or two sets have an id in common.
        """
        return self._train if split == "train" else self.sets[0].select(split)

    def labels(self, split: Split) -> NDArray[np.int64]:
        """Return the labels of a split's readable records, int64 `[N]`."""
        return np.concatenate([records.labels(split) for records in self._sets_of(split)])

    def training_ids(self) -> list[str]:
        """Return the ids of the readable records of the train split."""
        return [identity for records in self.sets for identity in records.training_ids()]

    def count_classes(self) -> NDArray[np.float64]:
        """Return how often an epoch reads each class, in label order, float64 `[K]`."""
        counts = [np.bincount(records.labels("train"), minlength=len(self.class_names)) for records in self.sets]
        return np.asarray(self.passes) @ np.stack(counts)

    def _sets_of(self, split: Split) -> Sequence[SplitRecords]:
        return self.sets if split == "train" else self.sets[:1]

    @cached_property
    def _reader(self) -> JoinedReader:
        return JoinedReader([records.open("train") for records in self.sets])

    @cached_property
    def _train(self) -> Selection:
        check_same_classes([records.root for records in self.sets])
        parts = [records.select("train").numbers for records in self.sets]
        check_different_ids(self.sets)
        self._collect_problems()
        numbers = [part + start for part, start in zip(parts, self._reader.starts, strict=True)]
        return Selection(np.concatenate(numbers), mixture=Mixture(tuple(map(len, parts)), self.passes))

    def _collect_problems(self) -> None:
        self.skipped.update(*(records.skipped for records in self.sets))


def check_same_classes(roots: Sequence[AnyPath]) -> None:
    """Raise `InputError` unless all data sets have the class names of the first."""
    expected = read_class_names(roots[0])
    for root in roots[1:]:
        if difference := class_difference(expected, read_class_names(root)):
            raise InputError(
                f"{names_source(root)}: expected the {len(expected)} classes of {names_source(roots[0])}, found "
                f"{difference}. Their labels would mean different classes. Give both the same classes.txt, line by "
                "line, and prepare the data set again if its labels change; or leave it out of data.roots."
            )


def check_different_ids(sets: Sequence[SplitRecords]) -> None:
    """Raise `InputError` if two data sets have an id in common. Reads every record once.

    The training records of each set are compared, and the validation records of the first: an image of both would be
    trained on and validated on.
    """
    owners: dict[str, tuple[ShardReader, int]] = {}
    for place, records in enumerate(sets):
        own: dict[str, tuple[ShardReader, int]] = {}
        splits: tuple[Split, ...] = ("train",) if place else ("train", "val")
        for split in splits:
            catalog, reader = records.catalog(split), records.open(split)
            own |= {
                identity: (reader, number)
                for identity, number in zip(catalog.ids, catalog.numbers.tolist(), strict=True)
            }
        if clash := min(own.keys() & owners.keys(), default=None):
            reader, number = own[clash]
            other, earlier = owners[clash]
            raise InputError(
                f"{reader.where(number)}: expected ids that no other data set of data.roots has, found {clash}, which "
                f"{other.where(earlier)} has as well. If it is the same image, remove it from one of the data sets; "
                "otherwise rename the photograph in one of them, and prepare that one again."
            )
        owners |= own
