"""`cross_validate.py` trains, predicts and scores all folds, continues, and refuses what it cannot do."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import f1_score

from flowers.settings import quote
from tests.conftest import TINY
from tests.helpers.commands import run_script

FOLDS = 2
DONE = ["predictions/val.parquet", "predictions/test.parquet", "submission.csv", "cross_validation.json"]


def call(output: Path, settings: list[str], *more: str) -> CompletedProcess[str]:
    return run_script(
        "cross_validate", f"folds={FOLDS}", f"output={quote(str(output))}", *settings, "logger=csv", *more
    )


@pytest.fixture(scope="module")
def finished(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the directory of a finished cross-validation, and what was printed."""
    output = tmp_path_factory.mktemp("cross validation") / "größe"  # has to be quoted for the trainings
    done = call(output, tiny_settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def table_of(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith(("│ mean", "│ std.", "│ 95 %", "Out-of-fold"))]


@pytest.mark.slow
def test_each_image_of_train_and_val_is_predicted_once_out_of_fold(finished: tuple[Path, str]) -> None:
    output, _ = finished
    table = pq.read_table(output / "predictions" / "val.parquet")
    own = [pq.read_table(output / f"fold-{fold}/predictions/val.parquet")["id"].to_pylist() for fold in range(FOLDS)]
    assert len(set(table["id"].to_pylist())) == len(table) == TINY.train + TINY.val
    assert sorted(itertools.chain(*own)) == sorted(table["id"].to_pylist())
    assert pq.read_table(output / "predictions" / "test.parquet").num_rows == TINY.test
    assert len((output / "submission.csv").read_text().splitlines()) == TINY.test + 1


@pytest.mark.slow
def test_the_scores_are_those_of_the_files(finished: tuple[Path, str]) -> None:
    output, printed = finished
    summary = json.loads((output / "cross_validation.json").read_text())
    table = pq.read_table(output / "predictions" / "val.parquet")
    probabilities = np.stack([column.to_numpy() for column in table.columns[2:]], axis=1)
    score = f1_score(table["label"].to_numpy(), probabilities.argmax(1), average="macro")
    assert summary["out_of_fold"]["macro_f1"]["value"] == pytest.approx(score)
    assert f"Out-of-fold macro F1: {score:.4f}" in printed
    folds = [json.loads((output / f"fold-{fold}" / "metrics.json").read_text()) for fold in range(FOLDS)]
    assert summary["metrics"] == folds
    losses = [fold["val/loss"] for fold in folds]
    assert summary["over_folds"]["val/loss"]["mean"] == pytest.approx(np.mean(losses))
    assert f"{np.mean(losses):.4f}" in printed and f"{np.std(losses, ddof=1):.4f}" in printed


@pytest.mark.slow
def test_the_written_files_are_printed(finished: tuple[Path, str]) -> None:
    output, printed = finished
    for name in DONE:
        assert f"Wrote {output / name}" in printed
    assert "Epoch 1/1" in printed and "Epoch 1/1" in (output / "fold-1" / "console.log").read_text()


@pytest.mark.slow
def test_a_second_call_repeats_nothing_and_prints_the_same_table(
    finished: tuple[Path, str], tiny_settings: list[str]
) -> None:
    output, printed = finished
    files = {
        path: path.stat().st_mtime_ns for path in output.glob("fold-*/**/*") if path.suffix in (".ckpt", ".parquet")
    }
    done = call(output, tiny_settings)
    assert done.returncode == 0, done.stderr
    assert len(files) == FOLDS * 4
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert table_of(done.stdout) == table_of(printed) != []


@pytest.mark.slow
def test_other_settings_are_refused_with_the_key_and_both_values(
    finished: tuple[Path, str], tiny_settings: list[str]
) -> None:
    done = call(finished[0], tiny_settings, "optimizer.lr=0.5")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {finished[0]}: ")
    assert "optimizer.lr: 0.0003 there, 0.5 here" in done.stderr


@pytest.mark.slow
def test_a_fold_that_fails_ends_the_command_with_its_message_and_log(tiny_settings: list[str], tmp_path: Path) -> None:
    done = call(tmp_path / "out", tiny_settings, "data.image_size=100")
    assert done.returncode == 1
    assert done.stderr.startswith("error: fold 0: ")
    assert "data.image_size=100" in done.stderr
    assert f"{tmp_path}/out/fold-0/console.log" in done.stderr
    assert f"output={tmp_path}/out" in done.stderr
    assert not (tmp_path / "out" / "fold-1").exists()


REFUSED = {
    "folds=1": "folds=1: ",
    "trainer.max_epochs=three": "trainer.max_epochs=three: ",
    "trainer.max_epoch=3": "trainer.max_epoch: ",
    "data.fold=0": "data.fold=0: ",
    "data.folds=3": "data.folds=3: ",
    "data.train_on=train+val": "data.train_on=train+val: ",
    "ckpt_path=last.ckpt": "ckpt_path=last.ckpt: ",
    "resume=true": "resume=true: ",
    "debug=fdr": "trainer.fast_dev_run=True: ",
    "paths.output_dir=out": "paths.output_dir: ",
    "monitor.mode=min": "monitor.mode=min: ",
}


@pytest.mark.parametrize("override", REFUSED)
def test_invalid_settings_are_refused_before_anything_is_trained(
    tiny_settings: list[str], tmp_path: Path, override: str
) -> None:
    done = call(tmp_path / "out", tiny_settings, override)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {REFUSED[override]}"), done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert list((tmp_path / "out").glob("*")) == []


def test_data_without_folds_are_refused(tmp_path: Path) -> None:
    digits = ["--config-dir", "examples/digits/configs", "experiment=digits"]
    done = run_script("cross_validate", *digits, f"output={tmp_path}/out", PYTHONPATH=".")
    assert done.returncode == 1
    assert done.stderr.startswith("error: data._target_="), done.stderr
    assert "folds" in done.stderr
