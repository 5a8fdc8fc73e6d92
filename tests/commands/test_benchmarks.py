"""The benchmarks refuse invalid input before they measure."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.step.run import read_results
from flowers.errors import InputError
from tests.helpers.commands import run_module

QUICK = ("sizes=[192]", "rounds=1", "seconds=0.2", "workers=2")
SMALL = ["model.backbone=test_efficientnet", "model.pretrained=false"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tasks=[decode,flop]"], r"error: tasks\.1=flop: "),
        (["loaders=[dali]"], r"error: loaders\.0=dali: "),
        (["data.root=nowhere"], r"error: data\.root=nowhere: "),
        (["sizes=[192,331]", "data.root=GARDEN"], r"error: sizes: .*GARDEN.*\[192, 224\]"),
        (["sizes=[192]", "data.root=GARDEN", "results=README.md"], r"error: results=README\.md: "),
    ],
)
def test_the_loader_benchmark_refuses_invalid_settings(garden: Path, arguments: list[str], message: str) -> None:
    done = run_module("benchmarks.loader", *(argument.replace("GARDEN", str(garden)) for argument in arguments))
    assert done.returncode == 1
    assert re.match(message.replace("GARDEN", str(garden)), done.stderr)


def test_a_damaged_record_is_found_before_anything_is_measured(garden: Path, tmp_path: Path) -> None:
    root = shutil.copytree(garden, tmp_path / "damaged")
    shard = min((root / "tfrecords-jpeg-192x192" / "train").glob("*.tfrec"))
    content = bytearray(shard.read_bytes())
    content[500] ^= 0xFF
    shard.write_bytes(content)
    done = run_module("benchmarks.loader", *QUICK, f"data.root={root}", f"results={tmp_path}/loader.json")
    assert done.returncode == 1
    assert re.match(rf"error: {shard}: record 0: .*CRC", done.stderr)


def test_a_line_that_is_no_result_is_refused(tmp_path: Path) -> None:
    results = tmp_path / "step.jsonl"
    results.write_text('{"device": "CPU"}\n')
    with pytest.raises(InputError, match="line 1: "):
        read_results(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps=2", "trainer=cpu"], r"error: steps=2: .*\b5\b"),
        (["trainer=cpu", "trainer.fast_dev_run=true", *SMALL], r"error: steps=30: .*\b35\b"),
        (["model=nonsense"], r"error: model=nonsense: "),
    ],
)
def test_the_step_benchmark_refuses_invalid_settings(arguments: list[str], message: str) -> None:
    done = run_module("benchmarks.step", *arguments)
    assert done.returncode == 1
    assert re.match(message, done.stderr)
