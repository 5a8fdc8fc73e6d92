"""Read and write predictions files: class probabilities for each image of a split. Ensembles are built from them.

A predictions file is a parquet file with one row per image: `id` (string), `label` (int64, null if the split has
none), then a float32 probability for each class, named after the class. The metadata (`flowers`, JSON) is the
`Provenance`. Files of other programs need none.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter

from flowers.errors import InputError
from flowers.interfaces import NO_LABEL
from flowers.system.atomic import atomic_path
from flowers.training.outcomes import Outcomes

METADATA_KEY = "flowers"

_ROWS = 4096
"""The number of rows per row group. The writer keeps metadata on each group's columns in memory until the end."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The source of predictions. Values that a file does not record are empty or None.

    Args:
        run: the run's directory.
        split: the split of the data set.
        image_size: the side of the stored images, in pixels.
        tta: the test-time augmentation.
        class_names: the class names in label order.
        eval_size: the side of the images as the model sees them, in pixels.
        backbone: timm's name of the backbone.
        parameters: the number of the model's parameters.
        images_per_second: the speed of the prediction. All views of an image count as one.
        trained_on: `train`, or `train+val` for a model that was trained on both; empty if it is unknown.
        folds: the number of folds that train and val were split into; None: no folds.
        fold: the fold that the model was not trained on, which is its split `val`.
        recipe: a digest of the configuration without the fold. The models of all folds have the same.
        skipped: the number of the split's records that could not be read, and are missing here.
        weights: a digest of the model's weights; empty for an ensemble, and in files of earlier versions.
        licence: the licence of the pretrained weights; several for an ensemble; empty for random weights.
    """

    run: str
    split: str
    image_size: int | None
    tta: str
    class_names: list[str]
    eval_size: int | None = None
    backbone: str = ""
    parameters: int | None = None
    images_per_second: float | None = None
    trained_on: str = ""
    folds: int | None = None
    fold: int | None = None
    recipe: str = ""
    skipped: int = 0
    weights: str = ""
    licence: str = ""


class PredictionsWriter:
    """Writes a predictions file batch by batch and atomically, in constant memory except for the ids."""

    def __init__(self, path: Path, class_names: Sequence[str]) -> None:
        self._path = path
        classes = [pa.field(name, pa.float32()) for name in class_names]
        self._schema = pa.schema([pa.field("id", pa.string()), pa.field("label", pa.int64()), *classes])
        self._seen: set[str] = set()
        self._due: list[pa.Table] = []
        self._provenance: Provenance | None = None

    def __enter__(self) -> PredictionsWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as exits:
            unfinished = exits.enter_context(atomic_path(self._path))
            self._writer = pq.ParquetWriter(unfinished, self._schema, use_dictionary=False)  # values rarely repeat
            exits.push(self._close)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exits.__exit__(kind, error, traceback)

    def _close(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._write_due()
            if kind is None and self._provenance is not None:
                self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(asdict(self._provenance))})
        finally:
            self._writer.close()

    @property
    def count(self) -> int:
        """Return the number of rows written so far."""
        return len(self._seen)

    def write(self, ids: Sequence[str], labels: Sequence[int | None], probabilities: NDArray[np.float32]) -> None:
        """Add a batch: `N` ids, `N` labels, and probabilities float32 `[N, K]`.

        Raises:
            InputError: an id occurs a second time, or a probability is not a finite number.
        """
        finite = np.isfinite(probabilities).all(axis=1)
        if not finite.all():
            raise InputError(
                f"id {ids[int(finite.argmin())]}: expected finite probabilities, found NaN or infinity in "
                f"{int(np.logical_not(finite).sum())} rows of its batch. The model's weights are damaged, or its "
                "precision is too low. Try trainer.precision=32-true, or train again with a lower optimizer.lr."
            )
        for identity in ids:
            if identity in self._seen:
                raise InputError(
                    f"id {identity}: expected each id once in a split, found it a second time. Remove the duplicate "
                    "from the shards."
                )
            self._seen.add(identity)
        by_class = np.array(probabilities.T, np.float32, order="C")  # a copy, because pyarrow does not make one
        columns = [pa.array(ids, pa.string()), pa.array(labels, pa.int64()), *map(pa.array, by_class)]
        self._due.append(pa.Table.from_arrays(columns, schema=self._schema))
        if sum(table.num_rows for table in self._due) >= _ROWS:
            self._write_due()

    def _write_due(self) -> None:
        if self._due:
            self._writer.write_table(pa.concat_tables(self._due), row_group_size=_ROWS)
            self._due.clear()

    def finish(self, provenance: Provenance) -> None:
        """Set the source of the rows. It is called at the end, when the speed is known."""
        self._provenance = provenance


def read_provenance(path: Path) -> Provenance:
    """Read the source of a predictions file. For another program's file, only the class names are known.

    Raises:
        InputError: the file is missing, or is not a predictions file.
    """
    try:
        metadata: Mapping[bytes, bytes] = pq.read_metadata(path).metadata or {}
        columns = pq.read_schema(path).names
        if columns[:2] != ["id", "label"] or len(columns) < 4:
            raise ValueError(f"columns {', '.join(columns[:4])}, not id, label and then one for each class")
        if twice := [name for name, times in Counter(columns).items() if times > 1]:
            raise ValueError(f"a column {twice[0]} more than once")
        recorded = metadata.get(METADATA_KEY.encode())
        unknown = Provenance(str(path), "", None, "", columns[2:])
        provenance = unknown if recorded is None else TypeAdapter(Provenance).validate_json(recorded, strict=True)
        if provenance.class_names != columns[2:]:
            raise ValueError("columns that are not the classes of its metadata")
        return provenance
    except (OSError, pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected a predictions file, found {type(error).__name__}: {str(error).rstrip('.')}. "
            "Write it with `python src/predict.py`."
        ) from error


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of a predictions file: ids, labels int64 `[N]` (`NO_LABEL` for none), probabilities float32 `[N, K]`."""

    ids: pa.Array
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]


def read_ids(path: Path) -> pa.Array:
    """Return the ids of a predictions file, in its order.

    Raises:
        InputError: the file is damaged, or an id is not text.
    """
    with _explain_read_errors(path):
        table = pq.ParquetFile(path, pre_buffer=False).read(columns=["id"], use_threads=False)
        ids: pa.Array = table["id"].cast(pa.string()).combine_chunks()
    return ids


def read_rows(path: Path, class_names: Sequence[str]) -> Iterator[Part]:
    """Yield the rows of a predictions file in its order, at most 8192 at a time.

    Raises:
        InputError: the file is damaged, an id is not text, or a probability or label is not a number.
    """
    with _explain_read_errors(path):
        for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(batch_size=8192):
            labels = batch.column("label").cast(pa.int64()).fill_null(NO_LABEL).to_numpy(zero_copy_only=False)
            columns = [batch.column(name).cast(pa.float32()) for name in class_names]
            filled = (column.fill_null(float("nan")).to_numpy(zero_copy_only=False) for column in columns)
            yield Part(batch.column("id").cast(pa.string()), labels, np.stack(list(filled), axis=1))


def read_outcomes(path: Path, class_names: list[str]) -> Outcomes:
    """Read the outcomes of a labelled split from its predictions file.

    Raises:
        InputError: the file is damaged.
    """
    parts = list(read_rows(path, class_names))
    ids = [identity for part in parts for identity in part.ids.to_pylist()]
    labels = np.concatenate([part.labels for part in parts])
    probabilities = np.concatenate([part.probabilities for part in parts])
    return Outcomes(ids, np.arange(len(ids)), labels, probabilities, class_names)


@contextmanager
def _explain_read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise InputError(
            f"{path}: expected a complete file with text as ids, and numbers as labels and probabilities, found "
            f"{type(error).__name__}: {str(error).partition(chr(10))[0]}. Predict again, or copy the file again."
        ) from error


def metadata_of(provenance: Provenance) -> dict[str, Any]:
    """Return the source of predictions for a report, without the class names."""
    return {key: value for key, value in asdict(provenance).items() if key != "class_names"}
