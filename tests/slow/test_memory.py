"""Memory does not grow with epochs of reading, with the test rows of an ensemble, or with rows that are written.

Nor do workers copy what their parent has freed.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.helpers.commands import ROOT
from tests.helpers.ensembles import settings
from tests.helpers.members import make_rows, write_run

READ_EPOCHS = """
import os, sys
from pathlib import Path
import albumentations as A
from flowers.data.datamodule import FlowersDataModule

def resident(process):
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])

if __name__ == "__main__":
    transform = [A.RandomResizedCrop((192, 192)), A.HorizontalFlip(), A.RandomBrightnessContrast()]
    data = FlowersDataModule(sys.argv[1], 192, 192, 192, 16, transform, [], num_workers=2, cache_dir=sys.argv[2])
    loader = data.loader("train", training=True)
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            pass
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        print(sum(resident(process) for process in [os.getpid(), *children]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes in /proc")
def test_memory_does_not_grow_over_epochs(garden: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(READ_EPOCHS)
    command = [sys.executable, str(tmp_path / "script.py"), str(garden), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    kilobytes = [int(line) for line in done.stdout.split()]
    assert len(kilobytes) == 20
    assert max(kilobytes[10:]) < max(kilobytes[2:10]) + 5_000, kilobytes


START_LATE = """
import os
from pathlib import Path
import torch
from flowers.data.workers import WorkerLoader, start_worker

def own_kilobytes(process):
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

def activations():
    return [torch.ones(1 << 18) for _ in range(400)]  # 400 MB in pieces of 1 MB, which glibc takes from its heap

if __name__ == "__main__":
    torch.ones(1 << 22)  # once 16 MB are freed, glibc takes pieces of up to that size from its heap
    held = activations()
    kept = torch.ones(1 << 18)  # above them, so that the heap cannot shrink
    del held
    loader = WorkerLoader(range(8), num_workers=1, worker_init_fn=start_worker, persistent_workers=True)
    batches = iter(loader)
    next(batches)
    held = activations()
    (child,) = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    print(own_kilobytes(child))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes in /proc")
def test_workers_do_not_copy_what_their_parent_has_freed() -> None:
    done = subprocess.run([sys.executable, "-c", START_LATE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100_000, "kilobytes of a worker of its own"


BLEND = """
import sys
from pathlib import Path
from omegaconf import OmegaConf
from flowers.ensembling.ensemble import EnsembleSettings, ensemble
from flowers.settings import load_settings

ensemble(load_settings(EnsembleSettings, OmegaConf.load(sys.argv[1])))
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of a process's memory in /proc")
def test_the_probabilities_of_test_rows_are_not_held_in_memory(tmp_path: Path) -> None:
    """50,000 more rows of three members with 200 classes are 120 MB of probabilities; all else takes less than half."""
    names = [f"class {label}" for label in range(200)]
    peaks = []
    for count in (10_000, 60_000):
        directory = tmp_path / str(count)
        for seed in range(3):
            val, test = make_rows(200, seed, classes=200), make_rows(count, seed, classes=200, first=1000)
            write_run(directory / "runs" / str(seed), val, test, class_names=names)
        config = settings(directory / "out", [f"{directory}/runs/*"])
        OmegaConf.save(asdict(config), directory / "config.yaml")
        command = [sys.executable, "-c", BLEND, str(directory / "config.yaml")]
        done = subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 60_000, peaks


WRITE_ROWS = """
import sys
from pathlib import Path
from typing import Any
import numpy as np
from flowers.inference import submission
from flowers.training.predictions import PredictionsWriter, Provenance

ROWS, BATCH, CLASSES = 200_000, 64, [f"class {label}" for label in range(104)]

def resident():
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])

probabilities = np.random.default_rng(0).random((BATCH, len(CLASSES)), np.float32)
with PredictionsWriter(Path(sys.argv[1]), CLASSES) as writer:
    for start in range(0, ROWS, BATCH):
        writer.write([f"{row:09x}" for row in range(start, start + BATCH)], [None] * BATCH, probabilities)
        if start in (0, ROWS - BATCH):
            print(resident())
    writer.finish(Provenance("logs/run", "test", 192, "none", CLASSES))
print(resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory of processes in /proc")
def test_writing_takes_no_more_memory_than_the_ids_and_some_rows(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITE_ROWS, str(tmp_path / "test.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, *others = (int(line) for line in done.stdout.split())
    assert len(others) == 2
    assert max(others) < first + 55_000, "the ids take about 25,000 KiB, all rows 81,000"
