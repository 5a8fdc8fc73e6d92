"""TensorFlow as an independent reader of what was written."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import simplejpeg
from upath import UPath

from flowers.data.class_names import read_class_names
from flowers.data.dataset import open_splits
from flowers.data.tfrecord.example import decode_example
from flowers.preparation.plan import PlannedImage
from flowers.preparation.tables import read_table

READ = """
import hashlib, json, pathlib, sys
import tensorflow as tf
rows = {}
for split in ("train", "val", "test"):
    features = {"image": tf.io.FixedLenFeature([], tf.string), "id": tf.io.FixedLenFeature([], tf.string),
                "class": tf.io.FixedLenFeature([], tf.int64, default_value=-1)}
    if split != "test":
        features["class"] = tf.io.FixedLenFeature([], tf.int64)
    shards = sorted(str(path) for path in pathlib.Path(sys.argv[1], split).glob("*.tfrec"))
    rows[split] = []
    for payload in tf.data.TFRecordDataset(shards):
        example = tf.io.parse_single_example(payload, features)
        pixels = tf.io.decode_jpeg(example["image"], dct_method="INTEGER_ACCURATE").numpy()
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        rows[split].append([example["id"].numpy().decode(), int(example["class"]), list(pixels.shape), digest])
print(json.dumps(rows))
"""


@pytest.mark.skipif(find_spec("tensorflow") is None, reason="tensorflow-cpu is for Linux")
def test_tensorflow_reads_the_same_ids_labels_and_pixels(prepared: Path) -> None:
    # In a process of its own: its protobuf classes cannot share one with the `tfrecord` package's.
    directory = prepared / "tfrecords-jpeg-64x64"
    printed = subprocess.run([sys.executable, "-c", READ, str(directory)], capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    names, rows = read_class_names(prepared), read_table(UPath(prepared) / "manifest.csv", PlannedImage)
    for split, found in json.loads(printed.stdout).items():
        reader, _ = open_splits(prepared, [split], 64, "stop", prepared.parent / "cache")
        digests = []
        for number in range(len(reader)):
            image = decode_example(reader[number], labelled=split != "test", where="").image
            pixels = simplejpeg.decode_jpeg(image, colorspace="RGB")
            digests.append(hashlib.sha256(pixels.tobytes()).hexdigest())
        expected = [
            [row.id, -1 if split == "test" else names.index(row.label), [64, 64, 3], digest]
            for row, digest in zip([row for row in rows if row.split == split], digests, strict=True)
        ]
        assert found == expected
