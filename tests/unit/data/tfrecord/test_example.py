"""Examples: round trips, what is missing, and TensorFlow's names left alone."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pool
from hypothesis import given
from hypothesis import strategies as st

from flowers.data.tfrecord import example
from flowers.data.tfrecord.example import Record, decode_example, encode_example
from flowers.errors import BadRecord

GOLDEN = Path(__file__).parents[3] / "golden"


@given(identity=st.text(max_size=12), image=st.binary(max_size=100), label=st.none() | st.integers(-(2**63), 2**63 - 1))
def test_round_trip(identity: str, image: bytes, label: int | None) -> None:
    record = Record(identity, image, label)
    assert decode_example(encode_example(record), labelled=label is not None, where="here") == record


@pytest.mark.parametrize("missing", ["image", "class", "id"])
def test_a_missing_feature_is_named(missing: str) -> None:
    message = example._Example.FromString(encode_example(Record("a", b"jpeg", 1)))
    del message.features.feature[missing]
    with pytest.raises(BadRecord, match=rf"shard: record 3: expected a feature '{missing}', found only"):
        decode_example(message.SerializeToString(), labelled=True, where="shard: record 3")


def test_a_feature_of_another_type_is_named() -> None:
    message = example._Example.FromString(encode_example(Record("a", b"jpeg", 1)))
    message.features.feature["class"].float_list.value.append(1.0)
    with pytest.raises(BadRecord, match=r"'class', found 0 .its kind is float_list"):
        decode_example(message.SerializeToString(), labelled=True, where="here")


def test_bytes_that_are_no_example() -> None:
    with pytest.raises(BadRecord, match=r"expected a tf.train.Example, found 3 bytes that are none"):
        decode_example(b"\xff\xff\xff", labelled=True, where="here")


def test_nothing_is_registered_where_tensorflow_registers() -> None:
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("flowers.Example")


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
def test_reads_in_a_process_that_imports_either(other: str, order: str) -> None:
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
