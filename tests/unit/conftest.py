"""Provides the unit tests' data set: generating the real garden takes longer than most unit tests together."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg

from flowers.data.class_names import kaggle_class_names
from flowers.data.layout import SPLITS, shard_name, size_directory
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.framing import write_shard
from flowers.synthetic.generation import SHARDS, image_id, split_labels
from tests.conftest import TINY


@pytest.fixture(scope="session")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set with the tiny garden's ids, labels and files, and patterns as images. Read only."""
    root = tmp_path_factory.mktemp("gardens") / "garden"
    for size in TINY.sizes:
        for split in SPLITS:
            labels = split_labels(TINY, split)
            for shard in range(SHARDS):
                numbers = range(shard, len(labels), SHARDS)
                records = [
                    Record(image_id(TINY, split, number), pattern(number, size), label)
                    for number in numbers
                    for label in [None if split == "test" else labels[number]]
                ]
                path = size_directory(root, size) / split / shard_name(shard, size, len(records))
                path.parent.mkdir(parents=True, exist_ok=True)
                write_shard(path, map(encode_example, records))
    (root / "classes.txt").write_text("\n".join(kaggle_class_names()) + "\n")
    return root


def pattern(number: int, size: int) -> bytes:
    """Return a smooth pattern as a JPEG: different for each number, alike at all sizes."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
    return simplejpeg.encode_jpeg(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))
