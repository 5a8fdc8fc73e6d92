"""torch.compile, with the C++ compiler, gives the plain network's weights and predictions."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from flowers.training.execution import has_compiler
from tests.commands.test_resuming import train_here
from tests.helpers.commands import run_script

pytestmark = pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")

SMALL = [
    *("data.train_size=32", "data.eval_size=32", "trainer.max_epochs=1"),
    *("+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1"),
]


def test_a_compiled_run_matches_a_plain_one(tiny_settings: list[str], tmp_path: Path) -> None:
    plain = torch.load(train_here(tmp_path / "plain", tiny_settings, *SMALL), weights_only=True)["state_dict"]
    run = tmp_path / "run"
    compiled = torch.load(train_here(run, tiny_settings, *SMALL, "trainer.compile=true"), weights_only=True)
    torch.testing.assert_close(compiled["state_dict"], plain, rtol=1e-2, atol=1e-3)
    found = []
    for compiling in ("false", "true"):
        done = run_script("predict", f"run={run}", "trainer=cpu", f"trainer.compile={compiling}", "split=val")
        assert done.returncode == 0, done.stderr
        rows = pq.read_table(run / "predictions" / "val.parquet").to_pandas()
        found.append(torch.tensor(rows.select_dtypes("float32").to_numpy()))
    assert found[0].shape == (104, 104)
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
