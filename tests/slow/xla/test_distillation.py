"""Distillation on XLA compiles one program for all steps, and gives the loss of the plain CPU."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from flowers.data.class_names import kaggle_class_names
from flowers.synthetic.generation import image_id
from tests.conftest import TINY
from tests.helpers.commands import run_process
from tests.helpers.members import Rows, write_file
from tests.helpers.on_xla import xla_environment


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of random predictions of the tiny garden's training images."""
    ids, names = [image_id(TINY, "train", number) for number in range(TINY.train)], kaggle_class_names()
    table = np.random.default_rng(0).dirichlet(np.ones(len(names)), len(ids)).astype(np.float32)
    path = tmp_path_factory.mktemp("teacher") / "train.parquet"
    return write_file(path, Rows(ids, [None] * len(ids), table), names)


@pytest.mark.parametrize("kind", ["file", "live"])
def test_a_distilled_step_compiles_once_and_matches_the_plain_cpu(
    tiny_settings: list[str], trained: Path, file: Path, kind: str, tmp_path: Path
) -> None:
    losses = []
    for name, trainer, environment in (("cpu", "cpu", xla_environment(1)), ("xla", "tpu", xla_environment(2))):
        done = run_process(
            "train",
            *tiny_settings,
            f"trainer={trainer}",
            "trainer.precision=32-true",
            "experiment=mixing",
            f"model.teacher={file if kind == 'file' else trained}",
            "callbacks.compile_guard.after_warmup=fail",
            f"trainer.max_epochs={1 if name == 'cpu' else 5}",
            "data.batch_size=16",
            "logger=csv",
            f"hydra.run.dir={tmp_path / name}",
            "+callbacks.recorder._target_=tests.helpers.on_xla.Recorder",
            f"+callbacks.recorder.path={tmp_path / name}.pt",
            **environment,
        )
        assert done.returncode == 0, done.stderr
        record = torch.load(tmp_path / f"{name}.pt")
        losses.append(record["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert record["sharding"].get("teacher") == ("{devices=[2,1]0,1}" if kind == "file" else None)
    rows = [row for row in csv.DictReader((tmp_path / "xla" / "metrics.csv").open()) if row["compile/count"]]
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3, 4]
    assert [(float(row["compile/count"]), float(row["compile/fallbacks"])) for row in rows[3:]] == [(0, 0), (0, 0)]
