"""Read local shards with the `tfrecord` package, an independent reader for comparison.

Imported only for `data.reader=tfrecord`: the package and TensorFlow cannot be imported into one process, because both
register the message `tf.train.Example` in protobuf's global pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tfrecord.reader import tfrecord_iterator

from flowers.data.tfrecord.framing import FOOTER, ShardIndex
from flowers.data.tfrecord.index import find_index_file
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import InputError


class TFRecordPackageReader(ShardReader):
    """Reads payloads with `tfrecord.reader`, by number across all shards in order.

    For each record the package opens the shard and parses the shard's index file. It compares no checksums: this class
    reads the stored CRC and compares it, as `ShardReader` does.

    Args:
        indexes: the shards' indexes.
        cache_dir: the directory of index files that could not be written beside their shards.

    Raises:
        InputError: a shard has no index file in either place.
    """

    def __init__(self, indexes: Sequence[ShardIndex], cache_dir: Path) -> None:
        super().__init__(indexes)
        self._index_files = [_index_file(self._local(shard), cache_dir) for shard in range(len(indexes))]

    def _read_with_footer(self, shard: int, record: int) -> bytes:
        count, position = len(self.indexes[shard]), int(self.indexes[shard].offsets[record])
        # The package reads an index with numpy.loadtxt, which returns another shape for a single line.
        index_file = str(self._index_files[shard]) if count > 1 else None
        try:
            [payload] = map(bytes, tfrecord_iterator(str(self._local(shard)), index_file, shard=(record, count)))
        except OSError as error:
            raise self._read_error(shard, error) from error
        except (RuntimeError, ValueError, OverflowError, MemoryError):  # cut off or changed since it was opened
            return b""
        return payload + self._pread(shard, FOOTER.size, position + len(payload))


def _index_file(path: Path, cache_dir: Path) -> Path:
    found = find_index_file(path, cache_dir)
    if found is None:
        raise InputError(
            f"{path}: expected its index file for data.reader=tfrecord, found none. The shard is damaged, or the "
            "index cannot be written. Make its directory or paths.cache_dir writable, or set data.reader=native."
        )
    return found
