"""The commands are run as a user runs them."""

from __future__ import annotations

import csv
import json
import re
import resource
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import f1_score

from flowers.data.class_names import kaggle_class_names
from flowers.training.predictions import read_provenance
from tests.conftest import damage_first_record
from tests.helpers.commands import run_script


def test_train_writes_the_run_directory(trained: Path) -> None:
    for name in ("config.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "metrics.csv", "metrics.json"):
        assert (trained / name).is_file(), name
    assert len(list((trained / "wandb").glob("offline-run-*/*.wandb"))) == 1
    metrics = json.loads((trained / "metrics.json").read_text())
    names = {f"{split}/{metric}" for split in ("train", "val") for metric in ("loss", "accuracy", "macro_f1")}
    assert names <= metrics.keys()
    assert all(0 <= metrics[f"{split}/macro_f1"] <= 1 for split in ("train", "val"))
    logged = list(csv.DictReader((trained / "metrics.csv").open()))
    assert names <= logged[0].keys()
    assert OmegaConf.load(trained / "config.yaml").model.backbone == "test_efficientnet"


def test_train_prints_the_metrics_and_the_next_commands(trained: Path) -> None:
    printed = (trained / "stdout.txt").read_text()
    metrics = json.loads((trained / "metrics.json").read_text())
    for expected in (
        f"{metrics['val/macro_f1']:.4f}",
        f"Run directory:  {trained}",
        f"python src/evaluate.py run={trained}",
        f"wandb leet {trained}/wandb",
        f"python src/sync.py runs={trained}",
    ):
        assert expected in printed


def test_evaluate_computes_the_same_metrics(trained: Path) -> None:
    done = run_script("evaluate", f"run={trained}", "trainer=cpu", "data.batch_size=13")
    assert done.returncode == 0, done.stderr
    metrics = json.loads((trained / "metrics.json").read_text())
    assert f"{metrics['val/macro_f1']:.4f}" in done.stdout
    assert f"{metrics['val/accuracy']:.4f}" in done.stdout


def test_predict_writes_predictions_and_a_submission(trained: Path) -> None:
    done = run_script("predict", f"run={trained}", "split=test", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((trained / "submission.csv").open()))
    assert list(rows[0]) == ["id", "label"]
    assert len({row["id"] for row in rows}) == len(rows) == 72
    assert all(0 <= int(row["label"]) < 104 for row in rows)
    provenance = read_provenance(trained / "predictions" / "test.parquet")
    assert (provenance.run, provenance.split, provenance.image_size) == (str(trained), "test", 192)
    assert provenance.class_names == kaggle_class_names()


def test_predictions_of_the_validation_split_give_its_macro_f1(trained: Path) -> None:
    done = run_script("predict", f"run={trained}", "split=val", "trainer=cpu", "data.batch_size=7")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(trained / "predictions" / "val.parquet")
    probabilities = torch.stack([torch.tensor(column.to_numpy()) for column in table.columns[2:]], dim=1)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(104))
    metrics = json.loads((trained / "metrics.json").read_text())
    score = f1_score(table["label"].to_numpy(), probabilities.argmax(1).numpy(), average="macro")
    assert score == pytest.approx(metrics["val/macro_f1"], abs=1e-5)


def test_fast_dev_run_of_training_writes_no_results(tiny_settings: list[str], tmp_path: Path) -> None:
    settings = [setting for setting in tiny_settings if "max_epochs" not in setting]
    done = run_script(
        "train", *settings, "debug=fdr", "experiment=mixing", "data.batch_size=8", f"hydra.run.dir={tmp_path}/run"
    )
    assert done.returncode == 0, done.stderr
    assert "Run directory:" in done.stdout
    assert "Evaluate it:" not in done.stdout  # there is no checkpoint
    assert list(tmp_path.rglob("best.ckpt")) == []
    assert list(tmp_path.rglob("metrics.json")) == []


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_fast_dev_run_of_the_other_commands_writes_nothing(trained: Path, name: str) -> None:
    before = sorted(trained.rglob("*"))
    done = run_script(name, f"run={trained}", "trainer=cpu", "trainer.fast_dev_run=true")
    assert done.returncode == 0, done.stderr
    assert sorted(trained.rglob("*")) == before


def test_resuming_continues_with_the_next_epoch(tiny_settings: list[str], trained: Path, tmp_path: Path) -> None:
    done = run_script(
        "train",
        *tiny_settings[:-1],
        "trainer.max_epochs=2",
        "logger=csv",
        f"ckpt_path={trained}/checkpoints/last.ckpt",
        f"hydra.run.dir={tmp_path}/resumed",
    )
    assert done.returncode == 0, done.stderr
    epochs = {row["epoch"] for row in csv.DictReader((tmp_path / "resumed" / "metrics.csv").open())}
    assert "0" not in epochs
    assert "1" in epochs


REFUSED = {
    "trainer.limit_train_batches=3": r"\+trainer\.limit_train_batches=VALUE",
    "trainer.max_epoch=3": r"error: trainer\.max_epoch: .*\btrainer\.max_epochs\?",
    "data.root=größe": r"error: data\.root=größe: .*\"data\.root='größe'\"",
    "data=tfrecord": r"error: data=tfrecord: .*\bdata=tfrecords\?",
    "logger=null": r"error: logger=null: ",
    "trainer.max_epochs=abc": r"error: trainer\.max_epochs=abc: .*'abc'",
    "data=tfrecords": r"error: data\.root: .*\bdata\.root=DIR",
    "model.backbone=resnet5O": r"error: model\.backbone=resnet5O: ",
    "ckpt_path=nowhere.ckpt": r"error: nowhere\.ckpt: ",
    "data.root=nowhere": r"error: nowhere: ",
    "data.root=.": r"error: \.: .*garden\.json",
    "trainer=gpu": r"error: trainer: ",
    "data.train_transform=[{_target_: albumentations.HorizontalFlipp}]": r"error: data\.train_transform\.0\._target_=",
    "trainer.max_epochs=-1": r"error: trainer\.max_epochs=-1: ",
    "train=false": r"error: train: .*python src/evaluate\.py run=DIR",
    "optimized_metric=val/acc": r"error: optimized_metric: .*\bmonitor\.metric",
    "model.optimizer.lr=1": r"error: model\.optimizer: .*\boptimizer=NAME",
    "test=true": r"error: test=true: FlowersDataModule .*test_dataloader\(\).*src/predict\.py run=DIR split=test",
}


def test_a_directory_that_cannot_be_created_is_reported(tiny_settings: list[str]) -> None:
    done = run_script("train", *tiny_settings, "hydra.run.dir=/dev/null/run")
    assert done.returncode == 1
    assert done.stderr.startswith("error: /dev/null/run: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_full_disk_is_reported(tiny_settings: list[str], tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # for each file that this process writes
    try:
        done = run_script("train", *tiny_settings, f"hydra.run.dir={tmp_path}/run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert done.returncode == 1
    assert done.stderr.startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("override", REFUSED)
def test_bad_input_gets_one_message_and_no_traceback(tiny_settings: list[str], tmp_path: Path, override: str) -> None:
    settings = tiny_settings if override.startswith(("model", "ckpt", "trainer", "data.train")) else []
    settings = ["data=tfrecords"] if override == "data.root=nowhere" else settings
    done = run_script("train", *settings, override, f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 1
    assert re.search(REFUSED[override], done.stderr)
    assert "Traceback" not in done.stderr + done.stdout


def test_the_best_and_last_checkpoints_are_of_the_best_and_last_epochs(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    done = run_script(
        "train",
        *tiny_settings,
        "trainer.max_epochs=3",
        "scheduler=competition",
        "scheduler.start=0",
        "optimizer.lr=3e-2",  # rises too high for the model, so that the last epoch is not the best
        "callbacks=ema",
        "monitor=loss",
        "logger=csv",
        f"hydra.run.dir={tmp_path}/run",
    )
    assert done.returncode == 0, done.stderr
    checkpoints = tmp_path / "run" / "checkpoints"
    best, last = (torch.load(checkpoints / f"{name}.ckpt", weights_only=True) for name in ("best", "last"))
    rows = csv.DictReader((tmp_path / "run" / "metrics.csv").open())
    losses = [float(row["val/loss"]) for row in rows if row["val/loss"]]
    assert best["epoch"] == losses.index(min(losses)) < last["epoch"] == 2
    # A run with an average can only be resumed with one.
    resume = ["trainer.max_epochs=4", f"ckpt_path={checkpoints}/last.ckpt", f"hydra.run.dir={tmp_path}/on"]
    done = run_script("train", *tiny_settings, *resume)
    assert done.returncode == 1
    assert "callbacks=ema" in done.stderr


def test_resuming_needs_the_same_model_and_epochs_left(tiny_settings: list[str], trained: Path, tmp_path: Path) -> None:
    last = f"ckpt_path={trained}/checkpoints/last.ckpt"
    for override, expected in (
        ("model.backbone=test_vit", "last.ckpt: expected the weights"),
        ("trainer.max_epochs=1", "error: trainer.max_epochs=1: "),
    ):
        done = run_script("train", *tiny_settings, last, override, f"hydra.run.dir={tmp_path}/run")
        assert done.returncode == 1
        assert expected in done.stderr
        assert "Traceback" not in done.stderr + done.stdout


def test_a_run_that_stops_before_its_first_validation_can_still_be_used(
    tiny_settings: list[str], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = run_script("train", *tiny_settings, "trainer.max_steps=2", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads((run / "metrics.json").read_text())["val/macro_f1"] <= 1
    # Resuming in the same directory keeps the earlier metrics.
    (run / "metrics.csv").write_text("epoch,step\n0,1\n")
    first = (run / "checkpoints" / "best.ckpt").read_bytes()
    resume = [*tiny_settings, f"ckpt_path={run}/checkpoints/last.ckpt", f"hydra.run.dir={run}"]
    done = run_script("train", *resume, "trainer.max_steps=2")
    assert done.returncode == 1
    assert done.stderr.startswith("error: trainer.max_steps=2: ")
    done = run_script("train", *resume, "trainer.max_steps=3")
    assert done.returncode == 0, done.stderr
    assert (run / "checkpoints" / "best.ckpt").read_bytes() != first  # this run's own
    assert [path.read_text() for path in run.glob("metrics-until-*.csv")] == ["epoch,step\n0,1\n"]
    assert run_script("evaluate", f"run={run}", "trainer=cpu").returncode == 0


def test_predicting_the_training_split_reads_each_record_once_and_unaugmented(trained: Path) -> None:
    tables = []
    for batch_size in (16, 50):
        done = run_script("predict", f"run={trained}", "split=train", "trainer=cpu", f"data.batch_size={batch_size}")
        assert done.returncode == 0, done.stderr
        tables.append(pq.read_table(trained / "predictions" / "train.parquet"))
    assert tables[0]["id"] == tables[1]["id"]
    assert len(set(tables[0]["id"].to_pylist())) == 208
    first, second = (torch.tensor(table.columns[2].to_numpy()) for table in tables)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_of_other_classes_is_refused(
    tiny_settings: list[str], trained: Path, garden: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for split in garden.iterdir():
        if split.is_dir():
            (other / split.name).symlink_to(split)
    (other / "classes.txt").write_text("\n".join(f"class {label}" for label in range(105)) + "\n")
    for arguments in (
        ("evaluate", f"run={trained}", f"data.root={other}"),
        ("train", *tiny_settings, f"data.root={other}", f"ckpt_path={trained}/checkpoints/last.ckpt"),
    ):
        done = run_script(*arguments, "trainer=cpu", f"hydra.run.dir={tmp_path}/run")
        assert done.returncode == 1
        assert re.search(r"\b105 classes\b.*\b104\b", done.stderr)
        assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize(("workers", "policy"), [("0", "stop"), ("1", "stop"), ("1", "skip")])
def test_a_damaged_record_stops_a_training_or_is_skipped(
    tiny_settings: list[str], garden: Path, tmp_path: Path, workers: str, policy: str
) -> None:
    root = tmp_path / "damaged"
    shard = damage_first_record(garden, root, "val")
    done = run_script(
        "train",
        *tiny_settings,
        f"data.root={root}",
        f"data.num_workers={workers}",
        f"data.on_bad_record={policy}",
        "logger=csv",
        f"hydra.run.dir={tmp_path}/run",
    )
    place = rf"{shard}: record 0: .*CRC"
    assert "Traceback" not in done.stderr + done.stdout
    if policy == "stop":
        assert done.returncode == 1
        assert re.search(f"error: {place}", done.stderr)
    else:
        assert done.returncode == 0, done.stderr
        assert "Skipped 1 bad records" in done.stdout
        assert re.search(place, done.stdout)
        done = run_script("predict", f"run={tmp_path}/run", "split=val", "trainer=cpu")
        assert "Wrote 103 rows" in done.stdout
        assert re.search(place, done.stdout)


def test_a_grid_runs_every_job(tiny_settings: list[str], tmp_path: Path) -> None:
    done = run_script(
        "train",
        "--multirun",
        *tiny_settings,
        "logger=default",
        "optimizer.lr=1e-3,3e-3",
        "+trainer.limit_train_batches=2",
        "+trainer.limit_val_batches=1",
        f"hydra.sweep.dir={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    runs = [OmegaConf.load(tmp_path / job / "config.yaml") for job in "01"]
    assert [run.optimizer.lr for run in runs] == [1e-3, 3e-3]
    assert all(len(list((tmp_path / job / "wandb").glob("offline-run-*"))) == 1 for job in "01")


def test_a_final_fit_has_no_validation_metrics(tiny_settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = run_script("train", *tiny_settings, "data.train_on=train+val", f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    assert not any(name.startswith("val/") for name in json.loads((run / "metrics.json").read_text()))
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    done = run_script("evaluate", f"run={run}", "trainer=cpu")
    assert "trained on the validation split as well" in done.stdout + done.stderr
    settings = [
        "data.train_on=train+val",
        "callbacks=early_stopping",
        "logger=csv",
        f"hydra.run.dir={tmp_path}/refused",
    ]
    done = run_script("train", *tiny_settings, *settings)
    assert done.returncode == 1
    assert done.stderr.startswith("error: callbacks.early_stopping: ")


def test_checkpoints_with_a_list_setting_can_be_loaded(tiny_settings: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ["+optimizer.betas=[0.9,0.95]", "+trainer.limit_train_batches=2", "logger=csv", f"hydra.run.dir={run}"]
    done = run_script("train", *tiny_settings, *settings)
    assert done.returncode == 0, done.stderr
    for name in ("best", "last"):
        checkpoint = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert checkpoint["optimizer_states"][0]["param_groups"][0]["betas"] == [0.9, 0.95]


def test_a_launcher_that_cannot_be_used_here_is_reported_in_one_line(tmp_path: Path) -> None:
    """It needs a package, and a machine that can submit jobs."""
    done = run_script("train", "--multirun", "hydra/launcher=slurm", "seed=1,2", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: hydra/launcher")
    assert len(done.stderr.strip().splitlines()) == 1
