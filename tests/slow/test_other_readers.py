"""TensorFlow and the `tfrecord` package read what we write, and can be imported in the same process."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
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
from tests.unit.data.tfrecord.test_framing import GOLDEN, payloads_of

READ_WITH_TENSORFLOW = """
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
    printed = subprocess.run(
        [sys.executable, "-c", READ_WITH_TENSORFLOW, str(directory)], capture_output=True, text=True, check=False
    )
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


READ = """
reader = dataset.ShardReader([framing.index_shard(Path(sys.argv[1]))])
samples = dataset.FlowersDataset(
    reader, image_size=48, class_names=["?"] * 104, labelled=True, on_bad_record="stop",
    transform=dataset.SeededTransform([], seed=0),
)
rows = [samples[number] for number in range(len(samples))]
print(json.dumps([[row.id, row.label, hashlib.sha256(row.image.tobytes()).hexdigest()] for row in rows]))
"""


@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("other", ["tensorflow", "tfrecord.reader"])
def test_shards_are_read_in_a_process_that_imports_either(other: str, order: str) -> None:
    if other == "tensorflow" and (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip("tensorflow-cpu has no wheels for this platform")
    imports = [f"import {other}", "from flowers.data import dataset", "from flowers.data.tfrecord import framing"]
    imports = imports if order == "before" else imports[::-1]
    script = "\n".join(["import hashlib, json, sys", "from pathlib import Path", *imports, READ])
    command = [sys.executable, "-c", script, str(GOLDEN / "00-48x48-6.tfrec")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    expected = json.loads((GOLDEN / "expected.json").read_text())
    assert json.loads(done.stdout) == [[row["id"], row["label"], row["pixels_sha256"]] for row in expected]


def test_the_tfrecord_package_reads_what_we_write(garden: Path) -> None:
    # In a process of its own: its protobuf classes cannot share one with TensorFlow's.
    script = (
        "import sys, json, hashlib; from tfrecord.reader import tfrecord_loader\n"
        "rows = tfrecord_loader(sys.argv[1], None, {'image': 'byte', 'id': 'byte', 'class': 'int'})\n"
        "print(json.dumps([[bytes(r['id']).decode(), int(r['class'][0]),"
        " hashlib.sha256(bytes(r['image'])).hexdigest()] for r in rows]))\n"
    )
    shard = sorted(garden.glob("tfrecords-jpeg-192x192/train/*.tfrec"))[0]
    printed = subprocess.run([sys.executable, "-c", script, str(shard)], capture_output=True, text=True, check=True)
    ours = [decode_example(payload, labelled=True, where="") for payload in payloads_of(shard)]
    assert json.loads(printed.stdout) == [[r.id, r.label, hashlib.sha256(r.image).hexdigest()] for r in ours]


IMPORTS = """
import sys
from google.protobuf import descriptor_pb2, descriptor_pool
file = descriptor_pb2.FileDescriptorProto(name="tensorflow/core/example/feature.proto", package="tensorflow")
file.message_type.add(name="BytesList")
descriptor_pool.Default().Add(file)  # as importing TensorFlow does
from pathlib import Path
from flowers.data.storage.cache import open_reader
from flowers.errors import InputError
try:
    open_reader([Path(sys.argv[1])], Path(sys.argv[2]), "tfrecord")
except InputError as error:
    print(error)
"""


def test_the_tfrecord_package_is_refused_beside_tensorflow_and_imported_on_request(tmp_path: Path) -> None:
    shard = shutil.copy(GOLDEN / "00-48x48-6.tfrec", tmp_path)  # an index is left beside it
    command = [sys.executable, "-c", IMPORTS, str(shard), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "data.reader" in done.stdout
