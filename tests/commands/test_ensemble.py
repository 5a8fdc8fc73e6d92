"""`ensemble.py` prints, logs and writes its results, and refuses invalid settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.commands import run_script
from tests.helpers.ensembles import TEST, VAL, find_leftovers, read_summary, write_runs
from tests.helpers.members import write_foreign


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    return write_runs(tmp_path)


def test_the_command_prints_logs_and_writes_its_results(tmp_path: Path, runs: list[str]) -> None:
    output = tmp_path / "out"
    foreign = write_foreign(tmp_path / "f/val.parquet", VAL[0])
    write_foreign(tmp_path / "f/test.parquet", TEST[0])
    entries = f'runs=["{tmp_path}/run*","{foreign}"]'
    done = run_script("ensemble", entries, "methods=[mean,greedy]", "resamples=100", f"hydra.run.dir={output}")
    assert done.returncode == 0, done.stderr
    assert "Members" in done.stdout and "Methods" in done.stdout
    assert done.stdout.count("resnet18, 224 px") == 3
    assert "of 60 validation images" in done.stdout
    summary = read_summary(output)
    assert f"ensemble: {summary['method']}" in done.stdout
    for member in summary["members"]:
        assert f"{member['macro_f1']['value']:.4f}" in done.stdout
    for name in ("submission.csv", "ensemble.json", "predictions/test.parquet", "report/index.html"):
        assert f"Wrote {output / name}" in done.stdout
        assert (output / name).is_file()
    assert len(list((output / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert find_leftovers(output) == []


@pytest.mark.parametrize(
    ("mistake", "message"),
    [("method=best", "method=best: expected "), ("folds=2", "folds=2: "), ("offset=true", "offset: no such setting")],
)
def test_an_invalid_setting_is_reported_in_one_line(
    tmp_path: Path, runs: list[str], mistake: str, message: str
) -> None:
    done = run_script("ensemble", f"runs=[{runs[0]}]", mistake, f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
