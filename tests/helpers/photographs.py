"""Synthetic photographs: smooth patterns with different perceptual hashes."""

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


def draw_photograph(number: int, width: int = 160, height: int = 120) -> Image.Image:
    """Draw a smooth pattern, a different one for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode_image(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_class_folders(directory: Path, counts: Mapping[str, int], width: int = 160, height: int = 120) -> Path:
    """Write class folders with these counts of images, and return their parent."""
    number = 0
    for name, count in counts.items():
        (directory / name).mkdir(parents=True)
        for _ in range(count):
            (directory / name / f"{number:04d}.jpg").write_bytes(encode_image(draw_photograph(number, width, height)))
            number += 1
    return directory


def run_serially(work: Callable[[Any], int], tasks: Sequence[Any], description: str, total: int) -> None:
    """Run all tasks one after the other, as the reference for other runners."""
    assert sum(work(task) for task in tasks) == total


def read_files(directory: Path) -> dict[str, bytes]:
    """Read all files of an output by relative path, except the lock and the indexes that reading creates."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock" and path.suffix != ".tfindex"
    }


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory of 200 photographs in three classes. Read only."""
    root = tmp_path_factory.mktemp("photographs") / "photographs"
    return write_class_folders(root, {"rose": 120, "wild daisy": 60, "Ähre": 20})


@pytest.fixture(scope="session")
def prepared(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of `prepare_folder` for them, prepared serially. Read only."""
    output = tmp_path_factory.mktemp("prepared") / "prepared"
    prepare_folder(str(photographs), str(output), SETTINGS, run_serially)
    return output
