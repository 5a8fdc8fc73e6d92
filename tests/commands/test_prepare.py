"""`prepare.py folder` and `prepare.py verify` write and print their results, and refuse invalid input."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.commands import ROOT, run_script
from tests.helpers.photographs import read_files
from tests.unit.preparation.test_verify import find_shard, rewrite


def test_a_model_trains_on_prepared_photographs(prepared: Path, tmp_path: Path) -> None:
    done = run_script(
        "train",
        "data=tfrecords",
        f"data.root={prepared}",
        "data.image_size=64",
        "data.batch_size=8",
        "data.num_workers=1",
        "model.backbone=test_efficientnet",
        "model.pretrained=false",
        "trainer=cpu",
        "debug=fdr",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert done.returncode == 0, done.stderr
    assert "Run directory:" in done.stdout


REFUSED = {
    "": r"error: source: .*\bsource=VALUE",
    "source=nowhere output=out": r"error: nowhere: .*\bsource\b",
    "source=src output=out": r"error: src: .*\bimages\b",
    "source=src output=out sizes=[0]": r"error: sizes\.0=0: .*greater than 0\b",
    "source=src output=out val=1.5": r"error: val=1\.5: .*less than 1\b",
    "source=src output=out val=0.5 test=0.5": r"error: val=0\.5 test=0\.5: ",
    "source=src output=out on_bad_image=no": r"error: on_bad_image=no: .*'stop'.*'skip'.*'no'",
    "source=src output=out shard=3": r"error: shard: .*\bshards\?",
    "source=src output=src/out": r"error: output=src/out: .*outside the source",
}


@pytest.mark.parametrize("settings", REFUSED)
def test_bad_input_gets_one_message_and_no_traceback(settings: str) -> None:
    done = run_script("prepare", "folder", *settings.split())
    assert done.returncode == 1
    assert re.search(REFUSED[settings], done.stderr)
    assert "Traceback" not in done.stderr + done.stdout
    assert not (ROOT / "out").exists()


def test_verify_finds_no_problem_in_the_garden(garden: Path) -> None:
    done = run_script("prepare", "verify", f"root={garden}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "104 of 104" in done.stdout
    assert done.stdout.endswith("No problems found\n")


def test_verify_shortens_its_lists_but_not_the_report(garden: Path, tmp_path: Path) -> None:
    root = shutil.copytree(garden, tmp_path / "copy")
    rewrite(find_shard(root), lambda records: [replace(record, image=b"no JPEG") for record in records])
    report = tmp_path / "reports" / "verify.json"
    done = run_script("prepare", "verify", f"root={root}", f"report={report}")
    assert done.returncode == 1
    assert done.stderr == "13 problems found\n"
    assert "Bad records: 13" in done.stdout
    assert done.stdout.count("expected a JPEG") == 5
    assert "and 8 more" in done.stdout
    written = json.loads(report.read_text())
    assert [finding["record"] for finding in written["findings"]] == list(range(13))
    assert {finding["file"] for finding in written["findings"]} == {str(find_shard(root))}
    assert written["parts"][0] == {
        "size": 192,
        "split": "train",
        "shards": 16,
        "records": 208,
        "classes": 104,
        "bad": 13,
    }


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("root=nowhere", "error: nowhere: "), ("decode=perhaps", "error: decode=perhaps: ")],
)
def test_verify_refuses_bad_input(garden: Path, setting: str, expected: str) -> None:
    done = run_script("prepare", "verify", f"root={garden}", setting)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_that_cannot_be_written_is_refused(garden: Path, tmp_path: Path) -> None:
    done = run_script("prepare", "verify", f"root={garden}", f"report={tmp_path}")
    assert done.returncode == 1
    assert f"error: report={tmp_path}: " in done.stderr


def test_beam_writes_the_same_bytes(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    done = run_script(
        "prepare", "folder", f"source={photographs}", f"output={output}", "sizes=[48,64]", "runner=FnApiRunner",
        "runner_options=['--direct_num_workers=1']",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert read_files(output) == read_files(prepared)
