"""TFRecord framing agrees with TensorFlow bit for bit, and damage is detected."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from flowers.data.tfrecord.example import decode_example
from flowers.data.tfrecord.framing import index_shard, masked_crc, write_shard
from flowers.data.tfrecord.reader import ShardReader
from flowers.errors import BadRecord

GOLDEN = Path(__file__).parents[3] / "golden"
SHARD = GOLDEN / "00-48x48-6.tfrec"


def payloads_of(path: Path) -> list[bytes]:
    reader = ShardReader([index_shard(path)])
    return [reader[number] for number in range(len(reader))]


def test_masked_crc_matches_the_published_value() -> None:
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720, B.4); the mask as TensorFlow's crc32c.h defines it.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_reads_what_tensorflow_wrote_bit_for_bit() -> None:
    expected = json.loads((GOLDEN / "expected.json").read_text())
    found = []
    for payload in payloads_of(SHARD):
        record = decode_example(payload, labelled=True, where="golden")
        pixels = simplejpeg.decode_jpeg(record.image, colorspace="RGB")
        found.append(
            {
                "id": record.id,
                "label": record.label,
                "payload_sha256": hashlib.sha256(payload).hexdigest(),
                "image_sha256": hashlib.sha256(record.image).hexdigest(),
                "pixels_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
            }
        )
    assert found == expected


def test_writes_what_tensorflow_would_write(tmp_path: Path) -> None:
    write_shard(tmp_path / "copy.tfrec", payloads_of(SHARD))
    assert (tmp_path / "copy.tfrec").read_bytes() == SHARD.read_bytes()


@given(shards=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=6), min_size=1, max_size=4))
def test_records_are_numbered_across_shards(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("shards")
    paths = [directory / f"{number}.tfrec" for number in range(len(shards))]
    for path, payloads in zip(paths, shards, strict=True):
        write_shard(path, payloads)
    reader = ShardReader([index_shard(path) for path in paths])
    flat = [payload for payloads in shards for payload in payloads]
    assert [reader[number] for number in range(len(reader))] == flat
    for outside in (-1, len(flat)):
        with pytest.raises(IndexError):
            reader[outside]


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_every_flipped_bit_is_detected(tmp_path_factory: pytest.TempPathFactory, position: int, bit: int) -> None:
    original = SHARD.read_bytes()
    damaged = bytearray(original)
    damaged[position % len(original)] ^= 1 << bit
    path = tmp_path_factory.mktemp("damaged") / "00.tfrec"
    path.write_bytes(damaged)
    index = index_shard(path)
    reader, refused = ShardReader([index]), index.problem is not None
    for number, payload in enumerate(payloads_of(SHARD)[: len(reader)]):
        try:
            assert reader[number] == payload
        except BadRecord as error:
            assert f"{path}: record {number}" in str(error)
            refused = True
    assert refused


@pytest.mark.parametrize("length", [5, 11, 12, 400])
def test_a_truncated_shard_is_reported_with_file_record_and_byte(tmp_path: Path, length: int) -> None:
    path = tmp_path / "00.tfrec"
    path.write_bytes(SHARD.read_bytes()[:length])
    index = index_shard(path)
    assert len(index) == 0
    assert index.problem is not None
    assert f"{path}: record 0 at byte 0" in index.problem
    assert "cut off" in index.problem


def test_a_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    length = struct.pack("<Q", 2**63)
    path = tmp_path / "00.tfrec"
    path.write_bytes(length + struct.pack("<I", masked_crc(length)) + b"x" * 100)
    problem = index_shard(path).problem
    assert problem is not None
    assert str(2**63) in problem
