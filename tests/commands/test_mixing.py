"""Training on several data sets, then evaluating and predicting with the run."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers.commands import run_script
from tests.helpers.data_modules import write_noise


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two data sets of 32 px, the first with 40 training images, the second with 24."""
    directory = tmp_path_factory.mktemp("mixed")
    for name, counts in (("first", (40, 6)), ("second", (24, 9))):
        for split, count in zip(("train", "val"), counts, strict=True):
            labels = [number % 3 for number in range(count)]
            write_noise(directory / name / "tfrecords-jpeg-32x32" / split, labels, f"{name}-{split}-")
        (directory / name / "classes.txt").write_text("rose\nlily\niris\n")
    return [directory / "first", directory / "second"]


def test_a_run_on_several_data_sets_is_evaluated_on_the_first(roots: list[Path], tmp_path: Path) -> None:
    settings = ["model.backbone=test_efficientnet", "model.pretrained=false", "trainer=cpu", "trainer.max_epochs=1"]
    sizes = ["data.image_size=32", "data.batch_size=8", "data.num_workers=1", "report=false", "logger=csv"]
    mixed = ["data=tfrecords", f"data.roots=[{roots[0]},{roots[1]}]", "data.weights=[1,0.5]"]
    run = tmp_path / "run"
    done = run_script("train", *settings, *sizes, *mixed, f"hydra.run.dir={run}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"first \+ second, 64 train, 6 val, 3 classes", done.stdout + done.stderr)
    for place, name, count in (([], "first", 6), ([f"data.root={roots[1]}"], "second", 9)):
        done = run_script("predict", f"run={run}", "split=val", "trainer=cpu", *place)
        assert done.returncode == 0, done.stderr
        predicted = pq.read_table(run / "predictions" / "val.parquet")["id"].to_pylist()
        assert len(predicted) == count
        assert all(identity.startswith(f"{name}-val-") for identity in predicted)


def test_the_default_data_set_and_roots_exclude_each_other(roots: list[Path], tmp_path: Path) -> None:
    done = run_script("train", f"data.roots=[{roots[0]}]", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.returncode == 1
    assert re.search(r"^error: data\.roots: .*data=tfrecords", done.stderr, re.M)
    done = run_script("train", "data=tfrecords", f"hydra.run.dir={tmp_path / 'run'}")
    assert re.search(r"^error: data\.root: .*data\.root=DIR", done.stderr, re.M)
