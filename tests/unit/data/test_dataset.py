"""Bad records: each kind is refused with its place, or skipped and counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from flowers.data.dataset import FlowersDataset, OnBadRecord, Skipped, open_splits
from flowers.data.tfrecord.example import Record, encode_example
from flowers.data.tfrecord.framing import write_shard
from flowers.data.transforms import SeededTransform
from flowers.errors import BadRecord

SIZE = 32


def jpeg(side: int = SIZE) -> bytes:
    picture = np.full((side, side, 3), 120, np.uint8)
    return bytes(simplejpeg.encode_jpeg(picture))


def good(number: int) -> bytes:
    return encode_example(Record(f"{number:09x}", jpeg(), number % 3))


def one_shard(root: Path, payloads: list[bytes], promised: int | None = None) -> Path:
    directory = root / f"tfrecords-jpeg-{SIZE}x{SIZE}" / "train"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"00-{SIZE}x{SIZE}-{len(payloads) if promised is None else promised}.tfrec"
    write_shard(path, payloads)
    return path


def open_dataset(root: Path, on_bad_record: OnBadRecord = "stop") -> tuple[FlowersDataset, list[str]]:
    reader, faults = open_splits(root, ["train"], SIZE, on_bad_record, root / "cache")
    dataset = FlowersDataset(
        reader,
        image_size=SIZE,
        class_names=["a", "b", "c"],
        labelled=True,
        transform=SeededTransform([], seed=0),
        on_bad_record=on_bad_record,
    )
    return dataset, faults


BAD_PAYLOADS = {
    "no example": (b"\xff\xff", "expected a tf.train.Example"),
    "no class": (encode_example(Record("a", jpeg(), None)), "expected a feature 'class'"),
    "class out of range": (encode_example(Record("a", jpeg(), 3)), "expected a class from 0 to 2, found 3"),
    "negative class": (encode_example(Record("a", jpeg(), -1)), "expected a class from 0 to 2, found -1"),
    "no JPEG": (encode_example(Record("a", b"no JPEG", 1)), "expected a JPEG as the image of id a, found 7 bytes"),
    "half a JPEG": (encode_example(Record("a", jpeg()[:300], 1)), "expected a JPEG as the image of id a"),
    "another size": (encode_example(Record("a", jpeg(16), 1)), "expected an image of 32x32 pixels"),
}


@pytest.mark.parametrize("kind", BAD_PAYLOADS)
def test_a_bad_record_stops_with_its_place(tmp_path: Path, kind: str) -> None:
    payload, expected = BAD_PAYLOADS[kind]
    path = one_shard(tmp_path, [good(0), payload, good(2)])
    dataset, _ = open_dataset(tmp_path)
    with pytest.raises(BadRecord) as raised:
        dataset[1]
    assert f"{path}: record 1: {expected}" in str(raised.value)


@pytest.mark.parametrize("kind", BAD_PAYLOADS)
def test_a_bad_record_is_skipped_where_asked(tmp_path: Path, kind: str) -> None:
    one_shard(tmp_path, [good(0), BAD_PAYLOADS[kind][0], good(2)])
    dataset, _ = open_dataset(tmp_path, "skip")
    samples = [dataset[number] for number in range(3)]
    assert [isinstance(sample, Skipped) for sample in samples] == [False, True, False]


def flip_payload(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_stops_with_both_crcs(tmp_path: Path) -> None:
    path = one_shard(tmp_path, [good(0)])
    flip_payload(path)
    with pytest.raises(BadRecord, match=r"record 0: the payload's CRC is wrong: expected 0x\w{8} as stored, found 0x"):
        open_dataset(tmp_path)[0][0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_length(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("damage", "left", "reason"), [(cut, 2, "cut off"), (flip_length, 0, "length's CRC is wrong")])
def test_a_damaged_shard_is_refused_or_read_as_far_as_it_goes(
    tmp_path: Path, damage: Callable[[Path], None], left: int, reason: str
) -> None:
    path = one_shard(tmp_path, [good(0), good(1), good(2)])
    damage(path)
    with pytest.raises(BadRecord, match=reason) as raised:
        open_dataset(tmp_path)
    assert f"expected 3 records as the name says, found {left}" in str(raised.value)
    dataset, faults = open_dataset(tmp_path, "skip")
    assert (len(dataset), len(faults)) == (left, 1)


def test_a_count_that_differs_from_the_name_is_refused(tmp_path: Path) -> None:
    one_shard(tmp_path, [good(0), good(1)], promised=3)
    with pytest.raises(BadRecord, match=r"expected 3 records as the name says, found 2. .*rename it to its true count"):
        open_dataset(tmp_path)


def test_a_damaged_shard_whose_name_says_no_count(tmp_path: Path) -> None:
    path = one_shard(tmp_path, [good(0), good(1)])
    cut(path)
    path.rename(path.with_name("mine.tfrec"))
    with pytest.raises(BadRecord, match=r"cut off: expected a payload of \d+ bytes, found \d+. Copy or download"):
        open_dataset(tmp_path)


def test_a_missing_image_is_named(tmp_path: Path) -> None:
    from flowers.data.tfrecord.example import _Example

    message = _Example.FromString(good(0))
    del message.features.feature["image"]
    one_shard(tmp_path, [message.SerializeToString()])
    with pytest.raises(BadRecord, match="expected a feature 'image', found only"):
        open_dataset(tmp_path)[0][0]
