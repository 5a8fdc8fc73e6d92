"""Reading takes no more memory in the twentieth epoch than in the first ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
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
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(garden), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    kilobytes = [int(line) for line in done.stdout.split()]
    assert len(kilobytes) == 20
    assert max(kilobytes[10:]) < max(kilobytes[2:10]) + 5_000, kilobytes
