"""Provides a tiny garden and a tiny run, each made once per session."""

from __future__ import annotations

import gc
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path

import hypothesis
import pytest
from filelock import FileLock

os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_SILENT"] = "true"
os.environ["FLOWERS_CACHE"] = tempfile.mkdtemp()
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models run much slower with more threads on a busy machine

from flowers.synthetic import Garden, generate
from tests.helpers.commands import run_script
from tests.helpers.config_files import read_once

multiprocessing.set_forkserver_preload(["flowers.data.collate"])  # otherwise each worker of a fork server imports torch

hypothesis.settings.register_profile("tests", deadline=None)  # a busy machine must not fail a test
hypothesis.settings.load_profile("tests")

read_once()

pytest_plugins = ["tests.helpers.photographs"]

TINY = Garden(seed=0, train=208, val=104, test=72, sizes=(192, 224))


def pytest_collection_finish() -> None:
    """Spare the garbage collector what is imported by now: searching it again and again took an eighth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(scope="session")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny garden's directory. Read only: tests that damage shards copy them."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # all of pytest-xdist's workers use the same garden
    root = directory / "gardens" / "garden"
    root.parent.mkdir(exist_ok=True)
    with FileLock(f"{root}.lock"):
        if not root.exists():
            generate(TINY, root)
    return root


def damage_first_record(garden: Path, root: Path, split: str) -> Path:
    """Copy a garden to `root`, damage the payload of a split's first record at 192 px, and return its shard."""
    shutil.copytree(garden, root)
    shard = sorted(root.glob(f"tfrecords-jpeg-192x192/{split}/*.tfrec"))[0]
    data = bytearray(shard.read_bytes())
    data[500] ^= 1
    shard.write_bytes(data)
    return shard


@pytest.fixture(scope="session")
def tiny_settings(garden: Path) -> list[str]:
    """Return the overrides of a training that takes seconds."""
    return [
        "data=tfrecords",
        f"data.root={garden}",
        "data.train_size=64",
        "data.eval_size=64",
        "data.num_workers=1",
        "model.backbone=test_efficientnet",
        "model.pretrained=false",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "logger=csv",
        "report=false",
    ]


@pytest.fixture(scope="session")
def trained(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a finished run."""
    directory = tmp_path_factory.mktemp("runs") / "trained"
    done = run_script("train", *tiny_settings, "logger=default", f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    (directory / "stdout.txt").write_text(done.stdout)
    (directory / "stderr.txt").write_text(done.stderr)
    return directory
