"""Of 2,000 damaged shards, each record is read as it was written, or refused with its place.

They are read in a separate process, so that a crash, a hang or excessive memory fails only the test. To repeat a case:
`python tests/slow/test_fuzz.py DIRECTORY CASE CASE+1`.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import hashlib
import json
import resource
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flowers.data.dataset import FlowersDataset, OnBadRecord, Sample, Skipped, open_splits
from flowers.data.layout import ShardFile
from flowers.data.tfrecord.example import decode_example, encode_example
from flowers.data.tfrecord.framing import index_shard, masked_crc
from flowers.data.tfrecord.reader import ShardReader
from flowers.data.transforms import SeededTransform
from flowers.errors import BadRecord
from flowers.preparation.shard_scan import ScanTask, scan_shard

CASES = 2_000
SEED = 2026
DEADLINE = 10  # seconds a case
MEMORY = 200 * 2**20  # bytes that reading may add to the process
ADDRESSES = 2**30  # bytes of address space beyond what the imports took
SIDE, CLASSES, RECORDS = 48, 104, 6
GOLDEN = Path(__file__).parents[1] / "golden" / f"00-{SIDE}x{SIDE}-{RECORDS}.tfrec"

Rng = np.random.Generator


def frame(payload: bytes, length: int | None = None) -> bytes:
    """Return a record with valid CRCs, and with `length` in its header if it is given."""
    header = struct.pack("<Q", len(payload) if length is None else length)
    return header + struct.pack("<I", masked_crc(header)) + payload + struct.pack("<I", masked_crc(payload))


# Damages of bytes, as they happen to files.


def choose_range(rng: Rng, data: bytes) -> tuple[int, int]:
    """Return the bounds of a part of the data, mostly a short one."""
    start = int(rng.integers(len(data)))
    return start, min(len(data), start + 1 + int(rng.integers(rng.choice([4, 64, 4096]))))


def flip_bits(rng: Rng, data: bytes) -> bytes:
    flipped = bytearray(data)
    for position in rng.integers(len(data), size=rng.integers(1, 9)):
        flipped[position] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def truncate(rng: Rng, data: bytes) -> bytes:
    return data[: rng.integers(len(data))]


def insert(rng: Rng, data: bytes) -> bytes:
    start, _ = choose_range(rng, data)
    return data[:start] + rng.bytes(int(rng.integers(1, 100))) + data[start:]


def delete(rng: Rng, data: bytes) -> bytes:
    start, end = choose_range(rng, data)
    return data[:start] + data[end:]


def duplicate(rng: Rng, data: bytes) -> bytes:
    start, end = choose_range(rng, data)
    return data[:end] + data[start:end] + data[end:]


def zero(rng: Rng, data: bytes) -> bytes:
    start, end = choose_range(rng, data)
    return data[:start] + bytes(end - start) + data[end:]


def empty(rng: Rng, data: bytes) -> bytes:
    return b""


def falsify_size(rng: Rng, data: bytes) -> bytes:
    """Change the sides in a JPEG's header (SOF0) to up to 65,535: gigabytes for a decoder that trusts them."""
    start = data.find(b"\xff\xc0") + 5
    sides = rng.choice([1, 47, 49, 5_000, 30_000, 65_535], size=2)
    return data[:start] + struct.pack(">HH", *sides) + data[start + 4 :]


# Damages of records. Each returns a file, and the numbers of the records with other content under a valid CRC.

Damage = Callable[[Rng, list[bytes]], tuple[bytes, set[int]]]


def damage_file(*changes: Callable[[Rng, bytes], bytes]) -> Damage:
    def damage(rng: Rng, payloads: list[bytes]) -> tuple[bytes, set[int]]:
        data = b"".join(map(frame, payloads))
        for change in changes:
            data = change(rng, data)
        return data, set()

    return damage


def damage_payload(change: Callable[[Rng, bytes], bytes]) -> Damage:
    def damage(rng: Rng, payloads: list[bytes]) -> tuple[bytes, set[int]]:
        number = int(rng.integers(len(payloads)))
        changed = change(rng, payloads[number])
        return b"".join(map(frame, [*payloads[:number], changed, *payloads[number + 1 :]])), {number}

    return damage


def damage_image(change: Callable[[Rng, bytes], bytes]) -> Damage:
    def within(rng: Rng, payload: bytes) -> bytes:
        record = decode_example(payload, labelled=True, where="")
        return encode_example(replace(record, image=change(rng, record.image)))

    return damage_payload(within)


def splice(rng: Rng, payloads: list[bytes]) -> tuple[bytes, set[int]]:
    """Exchange two payloads from some byte on."""
    first, second = sorted(int(number) for number in rng.choice(len(payloads), 2, replace=False))
    at = int(rng.integers(min(len(payloads[first]), len(payloads[second]))))
    spliced = list(payloads)
    spliced[first] = payloads[first][:at] + payloads[second][at:]
    spliced[second] = payloads[second][:at] + payloads[first][at:]
    return b"".join(map(frame, spliced)), {first, second}


def falsify_length(rng: Rng, payloads: list[bytes]) -> tuple[bytes, set[int]]:
    """Write a wrong length with a valid CRC."""
    number = int(rng.integers(len(payloads)))
    length = int(
        rng.choice(np.array([2**63, 2**64 - 1, 2**63 - 1, 2**31, 2**32, len(payloads[number]) + 1, 0], np.uint64))
    )
    frames = [frame(payload, length if place == number else None) for place, payload in enumerate(payloads)]
    return b"".join(frames), set()


BYTES = (flip_bits, truncate, insert, delete, duplicate, zero, empty)
DAMAGES: dict[str, Damage] = {
    "flip and delete": damage_file(flip_bits, delete),
    "falsify the length": falsify_length,
    "splice payloads": splice,
    "falsify the size": damage_image(falsify_size),
    **{f"{change.__name__} of the file": damage_file(change) for change in BYTES},
    **{f"{change.__name__} in a payload": damage_payload(change) for change in BYTES},
    **{f"{change.__name__} in an image": damage_image(change) for change in BYTES},
}

Content = tuple[str, int, str]


def describe(sample: Sample) -> Content:
    return sample.id, sample.label, hashlib.sha256(sample.image.tobytes()).hexdigest()


def make_dataset(reader: ShardReader, on_bad_record: OnBadRecord) -> FlowersDataset:
    return FlowersDataset(
        reader,
        image_size=SIDE,
        class_names=[str(number) for number in range(CLASSES)],
        labelled=True,
        transform=SeededTransform([], seed=0),
        on_bad_record=on_bad_record,
    )


def read_golden() -> list[Content]:
    """Return what TensorFlow read from the shard that it wrote."""
    expected = json.loads((GOLDEN.parent / "expected.json").read_text())
    return [(record["id"], record["label"], record["pixels_sha256"]) for record in expected]


def check(path: Path, changed: set[int], originals: list[Content]) -> Counter[str]:
    """Read a damaged shard in every way, and count the results of its records."""
    root = path.parents[2]
    reader, problems = open_splits(root, ["train"], SIDE, "skip", root / "cache")
    index = reader.indexes[0]
    assert index.problem is None or index.problem.startswith(f"{path}: record {len(index)} at byte "), index.problem
    strict, lenient = make_dataset(reader, "stop"), make_dataset(reader, "skip")
    counts: Counter[str] = Counter(problems=len(problems))
    for number in range(len(reader)):
        sample = lenient[number]
        try:
            assert describe(strict[number]) == describe(sample)  # type: ignore[arg-type]
        except BadRecord as error:
            assert str(error).startswith(f"{path}: record {number}: "), error
            assert sample == Skipped(str(error))
            counts["refused"] += 1
            continue
        assert isinstance(sample, Sample)
        if number in changed:  # its CRC is valid, so the change cannot be detected, but it must be a sample
            assert (sample.image.shape, sample.image.dtype) == ((SIDE, SIDE, 3), np.uint8)
            assert 0 <= sample.label < CLASSES
            counts["accepted"] += describe(sample) != originals[number]
        else:
            assert describe(sample) in originals
            counts["read"] += 1
    if problems:
        with pytest.raises(BadRecord):
            open_splits(root, ["train"], SIDE, "stop", root / "cache")
    facts = scan_shard(ScanTask(SIDE, "train", ShardFile(path, RECORDS)), CLASSES, decode=True)
    assert len(facts.findings) == counts["problems"] + counts["refused"]
    return counts


def check_with_old_index(path: Path, changed: set[int], originals: list[Content]) -> None:
    """Read a damaged shard by the index of the undamaged one, as if it had been damaged while open."""
    old = make_dataset(ShardReader([dataclasses.replace(index_shard(GOLDEN), path=path)]), "skip")
    for number in set(range(RECORDS)) - changed:
        sample = old[number]
        assert isinstance(sample, Skipped) or describe(sample) in originals  # type: ignore[arg-type]


def read_all(directory: Path, cases: range) -> dict[str, dict[str, int]]:
    """Damage and read a shard for each case, and return the results by kind of damage."""
    path = directory / f"tfrecords-jpeg-{SIDE}x{SIDE}" / "train" / GOLDEN.name
    path.parent.mkdir(parents=True)
    reader = ShardReader([index_shard(GOLDEN)])
    payloads, originals = [reader[number] for number in range(RECORDS)], read_golden()
    path.write_bytes(GOLDEN.read_bytes())
    assert check(path, set(), originals) == Counter(read=RECORDS, problems=0)
    before = limit_memory()
    counts: dict[str, Counter[str]] = {name: Counter() for name in DAMAGES}
    for case in cases:
        name = list(DAMAGES)[case % len(DAMAGES)]
        data, changed = DAMAGES[name](np.random.default_rng([SEED, case]), payloads)
        print(f"case {case}: {name}", file=sys.stderr, flush=True)  # the last one printed is the failing one
        faulthandler.dump_traceback_later(DEADLINE, exit=True)
        path.write_bytes(data)
        path.with_suffix(".tfindex").unlink(missing_ok=True)  # the clock may not have ticked since it was written
        check_with_old_index(path, changed, originals)
        found = check(path, changed, originals)
        assert changed or data == GOLDEN.read_bytes() or found["refused"] or found["problems"], "undetected damage"
        counts[name] += found
    faulthandler.cancel_dump_traceback_later()
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert growth < MEMORY, f"reading took {growth} bytes"
    return {name: dict(found) for name, found in counts.items()}


def limit_memory() -> int:
    """Limit the memory, so that a reader that trusts a length fails. Return the peak of memory so far, in bytes."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESSES, resource.RLIM_INFINITY))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_no_damage_goes_undetected_crashes_or_hangs(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path), "0", str(CASES)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    counts: dict[str, dict[str, int]] = json.loads(done.stdout)
    assert counts.keys() == DAMAGES.keys()
    for name, found in counts.items():  # each kind of damage is detected
        assert found.get("refused", 0) + found.get("problems", 0) > 20, (name, found)
    assert sum(found.get("read", 0) for found in counts.values()) > CASES


if __name__ == "__main__":
    faulthandler.enable()
    print(json.dumps(read_all(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])))))
