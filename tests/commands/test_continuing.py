"""With resume=true, a run or a multirun goes on where it was interrupted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flowers.training.runs import Run
from tests.helpers.commands import run_script
from tests.helpers.killing import add_killer, read_steps

EPOCHS = 2
STEPS = 4
"""Steps of an epoch."""


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str]) -> list[str]:
    quick = ["data.batch_size=52", "data.num_workers=0", f"trainer.max_epochs={EPOCHS}", "logger=csv"]
    killer = ["+callbacks.killer.by=SIGTERM", "+callbacks.killer.path='${paths.output_dir}/seen.jsonl'"]
    return [*add_killer([*tiny_settings, *quick]), *killer, "resume=true"]


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a multirun of two jobs that nobody interrupted."""
    sweep = tmp_path_factory.mktemp("whole")
    done = run_script("train", "--multirun", *settings, "seed=1,2", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 0, done.stderr
    return sweep


def read_metrics(run: Path) -> dict[str, Any]:
    """Return a run's validation metrics. Those of training are means over the rest of an interrupted epoch."""
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return {name: value for name, value in metrics.items() if name.startswith("val/")}


@pytest.mark.slow
def test_an_interrupted_multirun_skips_resumes_and_starts(settings: list[str], whole: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(whole / "0", sweep / "0")
    finished = (sweep / "0" / "metrics.json").stat().st_mtime_ns
    done = run_script("train", *settings, "seed=2", f"hydra.run.dir={sweep}/1", KILLER_AT="5")
    assert done.returncode == 143, done.stderr
    done = run_script("train", "--multirun", *settings, "seed=1,2,3", f"hydra.sweep.dir={sweep}")
    assert done.returncode == 0, done.stderr
    assert (sweep / "0" / "metrics.json").stat().st_mtime_ns == finished
    assert f"{sweep}/1/checkpoints/last.ckpt after step 6" in done.stdout
    assert done.stdout.count("Resuming from") == 1
    assert read_metrics(sweep / "1") == read_metrics(whole / "1")
    assert Run(sweep / "2").read_metrics()


def test_a_job_with_other_settings_than_its_directory_is_refused(settings: list[str], whole: Path) -> None:
    before = {path: path.read_bytes() for path in whole.glob("?/[cm]*") if path.is_file()}
    done = run_script("train", "--multirun", *settings, "seed=2,1", f"hydra.sweep.dir={whole}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {whole}/0/config.yaml: ") and "seed: 1 before, 2 now" in done.stderr
    assert {path: path.read_bytes() for path in before} == before


def test_a_finished_run_prints_its_metrics(settings: list[str], whole: Path) -> None:
    done = run_script("train", *settings, "seed=1", f"hydra.run.dir={whole}/0")
    assert done.returncode == 0, done.stderr
    assert f"{read_metrics(whole / '0')['val/loss']:.4f}" in done.stdout
    assert "Finished already" in done.stdout


def test_a_run_that_the_time_limit_ended_goes_on(settings: list[str], whole: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(whole / "0", run.directory)
    config = run.config()
    config.trainer.update(max_epochs=EPOCHS + 1, max_time="00:00:00:01")
    run.write_config(config)
    run.write_metrics(run.read_metrics() or {}, cut_short=True)  # as if the time had ended before the last epoch
    command = [*settings, "seed=1", f"trainer.max_epochs={EPOCHS + 1}", f"hydra.run.dir={run.directory}"]
    done = run_script("train", *command, KILLER_AT=str(EPOCHS * STEPS + 1))
    assert done.returncode == 143, done.stderr
    assert not run.metrics_path.exists(), "the metrics of the earlier epochs would count as the run's"
    done = run_script("train", *command, "+trainer.max_time='00:01:00:00'")
    assert done.returncode == 0, done.stderr
    assert "Resuming from" in done.stdout
    assert len(read_steps(run.directory / "seen.jsonl")) == (EPOCHS + 1) * STEPS
    done = run_script("train", *command)
    assert done.returncode == 0, done.stderr
    assert "Finished already" in done.stdout


def test_a_run_killed_after_its_last_step_is_evaluated(settings: list[str], whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole / "0", run)
    (run / "metrics.json").unlink()
    done = run_script("train", *settings, "seed=1", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    assert read_metrics(run) == read_metrics(whole / "0")


def test_a_run_killed_in_its_first_epoch_starts_again(settings: list[str], whole: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(whole / "0", run.directory)
    run.metrics_path.unlink()
    run.last.unlink()
    done = run_script("train", *settings, "seed=1", f"hydra.run.dir={run.directory}")
    assert done.returncode == 0, done.stderr
    assert "Resuming from" not in done.stdout
    assert read_metrics(run.directory) == read_metrics(whole / "0")


def test_a_run_that_early_stopping_ended_stays_ended(settings: list[str], tmp_path: Path) -> None:
    stopping = ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=9"]
    stopping += ["+callbacks.early_stopping.min_delta=9"]
    run = [*settings, *stopping, f"hydra.run.dir={tmp_path}/run"]
    done = run_script("train", *run)
    assert done.returncode == 0, done.stderr
    before = read_metrics(tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()
    done = run_script("train", *run)
    assert done.returncode == 0, done.stderr
    assert read_metrics(tmp_path / "run") == before
    rows = [path.read_text().splitlines() for path in (tmp_path / "run").glob("metrics*.csv")]
    assert len(rows) == 1, "another epoch was trained"
