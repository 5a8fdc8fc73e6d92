"""Export a data set to folders of JPEG files by class, for other libraries to read."""

from __future__ import annotations

from pathlib import Path

from benchmarks.recipes.images import count_classes, read_records
from benchmarks.recipes.task import Task
from flowers.data.layout import Split

FOLDERS: dict[Split, str] = {"train": "train", "val": "validation"}


def class_folders(class_count: int) -> list[str]:
    """Return the folders' names in label order, which is also alphabetical."""
    return [f"{label:05d}" for label in range(class_count)]


def export_folders(task: Task, directory: Path) -> None:
    """Write `{train,validation}/LABEL/NUMBER.jpg`: the JPEGs as stored, numbered as the split's records."""
    names = class_folders(count_classes(task))
    for split, folder in FOLDERS.items():
        for name in names:
            (directory / folder / name).mkdir(parents=True)
        for number, record in enumerate(read_records(task, split)):
            assert record.label is not None
            (directory / folder / names[record.label] / f"{number:06d}.jpg").write_bytes(record.image)
