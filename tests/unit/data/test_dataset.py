"""Every kind of bad record is refused with its place, or skipped and counted."""

from __future__ import annotations

import re
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
    pixels = np.full((side, side, 3), 120, np.uint8)
    return bytes(simplejpeg.encode_jpeg(pixels))


def good_example(number: int) -> bytes:
    return encode_example(Record(f"{number:09x}", jpeg(), number % 3))


def write_one_shard(root: Path, payloads: list[bytes], declared: int | None = None) -> Path:
    directory = root / f"tfrecords-jpeg-{SIZE}x{SIZE}" / "train"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"00-{SIZE}x{SIZE}-{len(payloads) if declared is None else declared}.tfrec"
    write_shard(path, payloads)
    return path


def open_dataset(root: Path, on_bad_record: OnBadRecord = "stop") -> tuple[FlowersDataset, list[str]]:
    reader, problems = open_splits(root, ["train"], SIZE, on_bad_record, root / "cache")
    dataset = FlowersDataset(
        reader,
        image_size=SIZE,
        class_names=["a", "b", "c"],
        labelled=True,
        transform=SeededTransform([], seed=0),
        on_bad_record=on_bad_record,
    )
    return dataset, problems


BAD_PAYLOADS = {
    "no example": (b"\xff\xff", "tf.train.Example"),
    "no class": (encode_example(Record("a", jpeg(), None)), "'class'"),
    "class out of range": (encode_example(Record("a", jpeg(), 3)), "0 to 2, found 3"),
    "negative class": (encode_example(Record("a", jpeg(), -1)), "0 to 2, found -1"),
    "no JPEG": (encode_example(Record("a", b"no JPEG", 1)), "JPEG.* id a.* 7 bytes"),
    "half a JPEG": (encode_example(Record("a", jpeg()[:300], 1)), "JPEG.* id a"),
    "another size": (encode_example(Record("a", jpeg(16), 1)), "32x32"),
}


@pytest.mark.parametrize("kind", BAD_PAYLOADS)
def test_a_bad_record_raises_with_its_place(tmp_path: Path, kind: str) -> None:
    payload, expected = BAD_PAYLOADS[kind]
    path = write_one_shard(tmp_path, [good_example(0), payload, good_example(2)])
    dataset, _ = open_dataset(tmp_path)
    with pytest.raises(BadRecord, match=f"{path}: record 1: .*{expected}"):
        dataset[1]


@pytest.mark.parametrize("kind", BAD_PAYLOADS)
def test_a_bad_record_is_skipped_if_configured(tmp_path: Path, kind: str) -> None:
    write_one_shard(tmp_path, [good_example(0), BAD_PAYLOADS[kind][0], good_example(2)])
    dataset, _ = open_dataset(tmp_path, "skip")
    samples = [dataset[number] for number in range(3)]
    assert [isinstance(sample, Skipped) for sample in samples] == [False, True, False]


def flip_payload(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def test_a_flipped_byte_raises_with_both_crcs(tmp_path: Path) -> None:
    path = write_one_shard(tmp_path, [good_example(0)])
    flip_payload(path)
    with pytest.raises(BadRecord, match=r"record 0: .*CRC.*0x\w{8}.*0x\w{8}"):
        open_dataset(tmp_path)[0][0]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip_length(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(("damage", "left", "reason"), [(cut, 2, "cut off"), (flip_length, 0, "length.*CRC")])
def test_a_damaged_shard_is_refused_or_read_up_to_the_damage(
    tmp_path: Path, damage: Callable[[Path], None], left: int, reason: str
) -> None:
    path = write_one_shard(tmp_path, [good_example(0), good_example(1), good_example(2)])
    damage(path)
    with pytest.raises(BadRecord, match=reason) as raised:
        open_dataset(tmp_path)
    assert re.search(rf"expected 3 .*found {left}\b", str(raised.value))
    dataset, problems = open_dataset(tmp_path, "skip")
    assert (len(dataset), len(problems)) == (left, 1)


def test_a_count_that_differs_from_the_name_is_refused(tmp_path: Path) -> None:
    write_one_shard(tmp_path, [good_example(0), good_example(1)], declared=3)
    with pytest.raises(BadRecord, match=r"expected 3 .*found 2\b.*rename"):
        open_dataset(tmp_path)


def test_a_damaged_shard_without_a_count_in_its_name_is_refused(tmp_path: Path) -> None:
    path = write_one_shard(tmp_path, [good_example(0), good_example(1)])
    cut(path)
    path.rename(path.with_name("mine.tfrec"))
    with pytest.raises(BadRecord, match=r"cut off: .* \d+ bytes, found \d+\..*download"):
        open_dataset(tmp_path)


def test_a_missing_image_is_reported(tmp_path: Path) -> None:
    from flowers.data.tfrecord.example import _Example

    message = _Example.FromString(good_example(0))
    del message.features.feature["image"]
    write_one_shard(tmp_path, [message.SerializeToString()])
    with pytest.raises(BadRecord, match="'image'"):
        open_dataset(tmp_path)[0][0]
