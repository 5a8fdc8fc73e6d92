"""Read the shards of several data sets as one reader."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from flowers.data.tfrecord.reader import ShardReader


class JoinedReader(ShardReader):
    """Reads the records of several readers, local and remote ones, which are numbered one reader after the other."""

    def __init__(self, readers: Sequence[ShardReader]) -> None:
        super().__init__([index for reader in readers for index in reader.indexes])
        self.readers = readers
        self.starts = [0, *accumulate(len(reader) for reader in readers)][:-1]
        """The number of each reader's first record."""

    def state(self) -> str:
        """Return a string that changes when a shard changes."""
        return repr([reader.state() for reader in self.readers])

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Hint to each reader which of its records will be read next."""
        own: dict[int, list[int]] = {}
        for number in numbers:
            place = self._place(number)
            own.setdefault(place, []).append(number - self.starts[place])
        for place, chosen in own.items():
            self.readers[place].prefetch(chosen)

    def read(self, number: int, *, check: bool = True) -> bytes:
        """Return payload `number`, 0 to `len(self) - 1`, as the reader of its shard does."""
        place = self._place(number)
        return self.readers[place].read(number - self.starts[place], check=check)

    def _place(self, number: int) -> int:
        """Return the place in `readers` of the one that has a record."""
        self._locate(number)  # raises IndexError
        return bisect_right(self.starts, number) - 1
