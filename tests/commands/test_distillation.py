"""A student is trained with a file, a run or an ensemble as its teacher."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from flowers.errors import InputError
from flowers.training.predictions import read_ids, read_outcomes, read_provenance
from flowers.training.runs import Run
from tests.helpers.commands import run_script
from tests.helpers.configuration import check
from tests.helpers.members import Rows, write_file


class KeepStep(Checkpoint):
    """Saves a checkpoint within the epoch, after its fifth step."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 5:
            trainer.save_checkpoint(self.path)


@pytest.fixture(scope="module")
def teacher(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a copy of the trained run with its predictions of the labelled splits."""
    run = Run(tmp_path_factory.mktemp("teachers") / "teacher")
    shutil.copytree(trained, run.directory, ignore=shutil.ignore_patterns("predictions", "submission.csv"))
    for split in ("val", "train"):
        done = run_script("predict", f"run={run.directory}", f"split={split}", "trainer=cpu", "data.num_workers=0")
        assert done.returncode == 0, done.stderr
    return run


@pytest.fixture
def student(tiny_settings: list[str]) -> list[str]:
    return [*tiny_settings, "data.num_workers=0", "data.batch_size=26", "logger=none", "callbacks.summary=null"]


def read_weights(directory: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(directory / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    return state


def test_predictions_of_the_training_split_have_each_image_once(teacher: Run) -> None:
    path = teacher.predictions("train")
    provenance = read_provenance(path)
    assert (provenance.split, provenance.trained_on, provenance.run) == ("train", "train", str(teacher.directory))
    assert len(set(read_ids(path).to_pylist())) == len(read_ids(path)) == 208
    assert pq.read_table(path, columns=["label"])["label"].null_count == 0


def test_an_ensemble_teaches_with_its_blended_predictions(teacher: Run, student: list[str], tmp_path: Path) -> None:
    blend = tmp_path / "blend"
    settings = ["resamples=100", "methods=[mean]", "logger=none", f"hydra.run.dir={blend}"]
    done = run_script("ensemble", f"runs=[{teacher.directory}]", *settings)
    assert done.returncode == 0, done.stderr
    file = blend / "predictions" / "train.parquet"
    assert f"Wrote {file}" in done.stdout
    assert read_ids(file).sort() == read_ids(teacher.predictions("train")).sort()
    out = tmp_path / "student"
    more = [f"model.teacher={blend}", "+trainer.limit_train_batches=2", f"hydra.run.dir={out}"]
    done = run_script("train", *student, *more)
    assert done.returncode == 0, done.stderr
    assert f"Teacher: 208 predictions of {file}" in done.stdout
    assert "overridden" not in done.stdout + done.stderr  # Lightning warns of hooks that it does not call
    assert OmegaConf.load(out / "config.yaml").model.teacher == str(blend)


def test_a_run_without_training_predictions_is_a_live_teacher(teacher: Run, student: list[str], tmp_path: Path) -> None:
    live = Run(tmp_path / "live")
    shutil.copytree(teacher.directory, live.directory, ignore=shutil.ignore_patterns("predictions"))
    out = tmp_path / "out"
    done = run_script(
        "train",
        *student,
        f"model.teacher={live.directory}",
        "model.mixup_alpha=0.2",
        "+trainer.limit_train_batches=2",
        f"hydra.run.dir={out}",
    )
    assert done.returncode == 0, done.stderr
    assert f"Teacher: the model of {live.best}" in done.stdout
    assert read_weights(out).keys() == read_weights(teacher.directory).keys()
    shutil.rmtree(live.directory)  # the teacher is only needed for training
    for command in (["evaluate", "report=false"], ["predict", "split=val"]):
        done = run_script(command[0], f"run={out}", "trainer=cpu", "data.num_workers=0", *command[1:])
        assert done.returncode == 0, done.stderr


def test_a_student_follows_its_teacher_rather_than_the_labels(teacher: Run, student: list[str], tmp_path: Path) -> None:
    """The teacher calls every image one class. Labels would spread the student over 104."""
    ids = read_ids(teacher.predictions("train")).to_pylist()
    names = read_provenance(teacher.predictions("train")).class_names
    certain = np.full((len(ids), len(names)), 0.1 / (len(names) - 1), np.float32)
    certain[:, 7] = 0.9
    file = write_file(tmp_path / "certain.parquet", Rows(ids, [None] * len(ids), certain), names, split="train")
    done = run_script(
        "train",
        *student,
        f"model.teacher={file}",
        "model.teacher_weight=1",
        "optimizer.lr=0.01",
        "trainer.max_epochs=3",
        f"hydra.run.dir={tmp_path / 'student'}",
    )
    assert done.returncode == 0, done.stderr
    done = run_script("predict", f"run={tmp_path / 'student'}", "split=train", "trainer=cpu", "data.num_workers=0")
    assert done.returncode == 0, done.stderr
    found = read_outcomes(Run(tmp_path / "student").predictions("train"), names)
    assert (found.predicted == 7).mean() > 0.9


def test_a_resumed_student_ends_with_the_same_weights(teacher: Run, student: list[str], tmp_path: Path) -> None:
    settings = [*student, f"model.teacher={teacher.directory}", "model.cutmix_alpha=1", "+trainer.limit_val_batches=1"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    keep = f"+callbacks.keep={{_target_: {__name__}.KeepStep, path: {tmp_path}/step.ckpt}}"
    for directory, more in ((whole, keep), (resumed, f"ckpt_path={tmp_path}/step.ckpt")):
        done = run_script("train", *settings, more, f"hydra.run.dir={directory}")
        assert done.returncode == 0, done.stderr
    for name, value in read_weights(whole).items():
        torch.testing.assert_close(read_weights(resumed)[name], value, msg=name)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.teacher=nowhere"], "model.teacher=nowhere: "),
        (["data.folds=2", "data.fold=0"], " all 156 training images"),
    ],
)
def test_unusable_teachers_are_refused_before_training(
    teacher: Run, student: list[str], tmp_path: Path, settings: list[str], message: str
) -> None:
    done = run_script(
        "train", *student, f"model.teacher={teacher.directory}", *settings, f"hydra.run.dir={tmp_path / 'student'}"
    )
    assert done.returncode == 1
    assert message in done.stderr and "Traceback" not in done.stderr + done.stdout
    assert not (tmp_path / "student" / "checkpoints").exists()


@pytest.mark.parametrize("setting", ["model.teacher_weight=1.5", "model.teacher_temperature=0"])
def test_settings_out_of_range_are_refused(setting: str) -> None:
    with pytest.raises(InputError, match=f"{setting}: expected "):
        check("train", setting)
