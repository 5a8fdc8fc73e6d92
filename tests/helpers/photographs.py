"""Photographs that are drawn: smooth patterns, unlike each other for a perceptual hash."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowers.preparation.folder import prepare_folder
from flowers.preparation.plan import Settings

SETTINGS = Settings(sizes=(48, 64), val=0.15, test=0.15, seed=42, shards=16, duplicate_distance=60, on_bad_image="stop")


def picture(number: int, width: int = 160, height: int = 120) -> Image.Image:
    """A pattern of its own for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def class_folders(directory: Path, counts: Mapping[str, int], width: int = 160, height: int = 120) -> Path:
    """Class folders with as many pictures each."""
    number = 0
    for name, count in counts.items():
        (directory / name).mkdir(parents=True)
        for _ in range(count):
            (directory / name / f"{number:04d}.jpg").write_bytes(file_of(picture(number, width, height)))
            number += 1
    return directory


def one_by_one(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
    """The simplest way to do all tasks: what others do is compared with it."""
    assert sum(work(task) for task in tasks) == total


def tree(directory: Path) -> dict[str, bytes]:
    """All files of an output by relative path, but for the lock and the indexes that reading leaves."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.suffix != ".tfindex"
    }


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 photographs of three classes. Not to be changed."""
    root = tmp_path_factory.mktemp("photographs") / "photographs"
    return class_folders(root, {"rose": 120, "wild daisy": 60, "Ähre": 20})


@pytest.fixture(scope="session")
def prepared(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepare_folder` makes of them, task by task. Not to be changed."""
    output = tmp_path_factory.mktemp("prepared") / "prepared"
    prepare_folder(str(photographs), str(output), SETTINGS, one_by_one)
    return output
