"""The predictions file: what a run says of each image of a split, and what ensembles are made of.

A parquet file with a row an image: `id` (string), `label` (int64, null where the split has none), then a
float32 probability for each class, named by the class. The metadata (`flowers`, JSON) tells the run, the split,
the resolution, the test-time augmentation and the class names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flowers.errors import InputError

METADATA_KEY = b"flowers"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where predictions come from."""

    run: str
    split: str
    image_size: int
    tta: str
    class_names: list[str]


class PredictionsWriter:
    """Writes a predictions file batch by batch, in constant memory but for the ids; whole or not at all."""

    def __init__(self, path: Path, provenance: Provenance) -> None:
        self._path = path
        self._unfinished = path.with_name(path.name + ".part")
        self._schema = _schema(provenance)
        self._seen: set[str] = set()

    def __enter__(self) -> PredictionsWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._unfinished, self._schema)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._writer.close()
        if kind is None:
            self._unfinished.replace(self._path)
        else:
            self._unfinished.unlink()

    @property
    def count(self) -> int:
        """Rows written."""
        return len(self._seen)

    def write(self, ids: Sequence[str], labels: Sequence[int | None], probabilities: NDArray[np.float32]) -> None:
        """Add a batch: `N` ids, labels, and probabilities `[N, K]`.

        Raises:
            InputError: an id comes a second time.
        """
        for identity in ids:
            if identity in self._seen:
                raise InputError(
                    f"id {identity}: expected each id once in a split, found it a second time. Remove the duplicate "
                    "from the shards."
                )
            self._seen.add(identity)
        columns = [pa.array(ids, pa.string()), pa.array(labels, pa.int64()), *map(pa.array, probabilities.T)]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self._schema))


def _schema(provenance: Provenance) -> pa.Schema:
    classes = [pa.field(name, pa.float32()) for name in provenance.class_names]
    metadata = {METADATA_KEY: json.dumps(asdict(provenance)).encode()}
    return pa.schema([pa.field("id", pa.string()), pa.field("label", pa.int64()), *classes], metadata)


def read_provenance(path: Path) -> Provenance:
    """Where a predictions file comes from.

    Raises:
        InputError: the file is missing or no predictions file.
    """
    try:
        metadata: Mapping[bytes, bytes] = pq.read_schema(path).metadata or {}
        return Provenance(**json.loads(metadata[METADATA_KEY]))
    except (OSError, pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected a predictions file, found {type(error).__name__}: {error}. "
            "Write it with `python src/predict.py`."
        ) from error
