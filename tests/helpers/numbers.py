"""A data set of numbers. It does not import Lightning, as each worker of a fork server would wait for that."""

from __future__ import annotations

from torch.utils.data import Dataset

from flowers.errors import BadRecord


class Numbers(Dataset[int]):
    """The numbers from 0 on. Reading `bad` raises."""

    def __init__(self, count: int, bad: int | None = None) -> None:
        self.count = count
        self.bad = bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> int:
        if number == self.bad:
            raise BadRecord(f"record {number}: expected a good one")
        return number


def first(samples: list[int]) -> int:
    """Collate a batch of one sample."""
    return samples[0]
