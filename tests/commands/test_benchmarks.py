"""What the benchmarks refuse before they measure."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.step.run import read_results
from flowers.errors import InputError
from tests.helpers.commands import run_module

QUICK = ("sizes=[192]", "rounds=1", "seconds=0.2", "workers=2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tasks=[decode,flop]"], "error: tasks.1=flop: expected 'decode', 'flip' or 'full', found 'flop'."),
        (["loaders=[dali]"], "error: loaders.0=dali: expected 'flowers', 'tf.data', 'tfrecord' or 'decode_only'"),
        (["data.root=nowhere"], "error: data.root=nowhere: no such directory. Expected a data set in Kaggle's layout"),
        (
            ["sizes=[192,331]", "data.root=GARDEN"],
            "error: sizes: expected resolutions of GARDEN, which has [192, 224],",
        ),
        (["sizes=[192]", "data.root=GARDEN", "results=README.md"], "error: results=README.md: "),
    ],
)
def test_the_loaders_benchmark_refuses(garden: Path, arguments: list[str], message: str) -> None:
    done = run_module("benchmarks.loader", *(argument.replace("GARDEN", str(garden)) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith(message.replace("GARDEN", str(garden)))


def test_a_damaged_record_is_found_before_anything_is_measured(garden: Path, tmp_path: Path) -> None:
    root = shutil.copytree(garden, tmp_path / "damaged")
    shard = min((root / "tfrecords-jpeg-192x192" / "train").glob("*.tfrec"))
    content = bytearray(shard.read_bytes())
    content[500] ^= 0xFF
    shard.write_bytes(content)
    done = run_module("benchmarks.loader", *QUICK, f"data.root={root}", f"results={tmp_path}/loader.json")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {shard}: record 0: the payload's CRC is wrong")


def test_a_line_that_is_no_result(tmp_path: Path) -> None:
    results = tmp_path / "step.jsonl"
    results.write_text('{"device": "CPU"}\n')
    with pytest.raises(InputError, match="line 1: expected a result"):
        read_results(results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps=2", "trainer=cpu"], "error: steps=2: expected at least 5"),
        (
            ["trainer=cpu", "trainer.fast_dev_run=true", "model.pretrained=false"],
            "error: steps=30: expected 35",
        ),
        (["model=nonsense"], "error: model=nonsense: no such choice."),
    ],
)
def test_the_steps_benchmark_refuses(arguments: list[str], message: str) -> None:
    done = run_module("benchmarks.step", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
