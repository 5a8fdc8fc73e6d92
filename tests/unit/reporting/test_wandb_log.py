"""`.wandb` files are read up to the first damage, and written as W&B writes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from flowers.reporting.wandb_log import BLOCK, CHUNK, HEADER, item_name, merge_logs, read_log, write_log
from tests.helpers.wandb_runs import find_wandb_file, log_run
from tests.helpers.wandb_server import read_records


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of a few blocks, with a record longer than a block. Read only."""
    return log_run(tmp_path_factory.mktemp("offline"), "abc00001", range(300), config={"long": "x" * 3 * BLOCK})


def make_record(number: int, size: int = 0) -> Record:
    record = Record(num=number, uuid="x" * size)
    record.run.run_id = "abc00001"
    return record


def test_an_intact_file_is_read_as_by_another_reader(offline: Path) -> None:
    log = read_log(find_wandb_file(offline))
    assert log.records == read_records(offline)
    assert log.damage is None and log.has_run and log.ended


def test_a_written_file_is_read_by_another_reader(offline: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "run-a.wandb", read_records(offline))
    assert read_records(tmp_path) == read_records(offline)
    size = find_wandb_file(offline).stat().st_size
    assert size > 3 * BLOCK and (tmp_path / "run-a.wandb").stat().st_size == size


@pytest.mark.parametrize("blocks", [1, 2])
def test_records_that_end_near_the_end_of_a_block_are_read_back(blocks: int, tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    ends = set()
    for size in range(blocks * BLOCK - 100, blocks * BLOCK + 10):
        records = [make_record(1, size), make_record(2), make_record(3, 2 * BLOCK)]
        write_log(path, records[:1])
        ends.add(path.stat().st_size % BLOCK - BLOCK)
        write_log(path, records)
        assert read_log(path).records == records == read_records(tmp_path)
    assert {-2 * CHUNK.size, -CHUNK.size - 1, -CHUNK.size, -CHUNK.size + 1, -1} <= ends


def test_a_truncated_file_is_read_up_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    records = [make_record(1, 100), make_record(2, BLOCK), make_record(3, 100)]
    write_log(path, records)
    data = path.read_bytes()
    counts = []
    for end in [*range(len(HEADER), 300), *range(BLOCK - 50, BLOCK + 50), *range(len(data) - 200, len(data) + 1)]:
        path.write_bytes(data[:end])
        log = read_log(path)
        assert log.records == records[: len(log.records)] and log.damage is None
        counts.append(len(log.records))
    assert counts == sorted(counts) and set(counts) == {0, 1, 2, 3}


def test_a_damaged_file_is_read_up_to_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    # In the last block, a length that is too large looks as if the end were missing.
    records = [make_record(1, 100), make_record(2, BLOCK), make_record(3, 2 * BLOCK)]
    write_log(path, records)
    data = path.read_bytes()
    for position in [*range(len(HEADER), 300), *range(BLOCK - 20, BLOCK + 20)]:
        changed = bytearray(data)
        changed[position] ^= 0x55
        path.write_bytes(changed)
        log = read_log(path)
        assert log.records == records[: len(log.records)] and len(log.records) < 2
        assert log.damage and str(len(data)) in log.damage


def test_zeros_at_the_end_are_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    write_log(path, [make_record(1, 100), make_record(2, BLOCK)])
    data = path.read_bytes()
    for end in (150, BLOCK, len(data)):
        path.write_bytes(data[:end] + bytes(5000))
        assert read_log(path).damage is None
        assert len(read_log(path).records) == (2 if end == len(data) else 1)


@pytest.mark.parametrize("content", [b"", bytes(100), b"not W&B's", HEADER[:4]])
def test_a_file_that_is_no_log_counts_as_damaged(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run-a.wandb"
    path.write_bytes(content)
    log = read_log(path)
    assert log.damage and not log.records and not log.has_run


def read_history(records: list[Record]) -> list[dict[str, float]]:
    return [
        {item_name(item): json.loads(item.value_json) for item in entry.history.item}
        for entry in records
        if entry.HasField("history")
    ]


def test_merged_logs_continue_steps_and_runtime(offline: Path) -> None:
    part = read_records(offline)
    merged = merge_logs([part, part, part], append=False)
    found, single = read_history(merged), read_history(part)
    assert [row["_step"] for row in found] == list(range(3 * len(single)))
    assert [entry.history.step.num for entry in merged if entry.HasField("history")] == list(range(3 * len(single)))
    last = single[-1]["_runtime"]
    assert [row["_runtime"] for row in found[len(single) :][: len(single)]] == pytest.approx(
        [row["_runtime"] + max(last, _summary_runtime(part)) for row in single]
    )
    assert [row["train/loss"] for row in found] == 3 * [row["train/loss"] for row in single]
    kinds = [entry.WhichOneof("record_type") for entry in merged]
    assert kinds.count("header") == kinds.count("exit") == 1 and kinds[0] == "header"
    assert not any(entry.run.resume for entry in merged)
    assert part == read_records(offline)  # the parts are not changed


def _summary_runtime(records: list[Record]) -> float:
    items = [item for entry in records for item in entry.summary.update if item_name(item) == "_runtime"]
    return max(json.loads(item.value_json) for item in items)


def test_only_the_first_of_the_appended_logs_is_resumed(offline: Path) -> None:
    merged = merge_logs([read_records(offline)] * 2, append=True)
    assert [entry.run.resume for entry in merged if entry.HasField("run")] == [True, False]
