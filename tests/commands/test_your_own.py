"""A user's data module and model are trained, resumed and evaluated by configuration alone, in each pairing."""

from __future__ import annotations

import importlib
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import lightning as L
import pyarrow.parquet as pq
import pytest

from flowers.training.pair import make_model
from tests.helpers.commands import ROOT, run_script

CONFIG_DIR = ["--config-dir", "examples/digits/configs"]
SHORT = ["trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=8", "logger=csv"]
DIGITS = [*CONFIG_DIR, "experiment=digits", *SHORT]
OURS = ["data=digits", "model=default", "model.backbone=test_efficientnet", "model.pretrained=false"]


def train(directory: Path, *settings: str) -> dict[str, float]:
    done = run_script("train", *settings, f"hydra.run.dir={directory}")
    assert done.returncode == 0, done.stderr
    metrics: dict[str, float] = json.loads((directory / "metrics.json").read_text())
    return metrics


def resume_and_evaluate(directory: Path, metric: str, *settings: str) -> None:
    """Train for one more epoch, and compare the metric with what `evaluate.py` computes."""
    resume = f"ckpt_path={directory}/checkpoints/last.ckpt"
    metrics = train(directory, *settings, resume, "trainer.max_epochs=2")
    done = run_script("evaluate", *CONFIG_DIR, f"run={directory}", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert f"{metrics[metric]:.4f}" in done.stdout


def test_a_users_model_trains_on_a_users_data(tmp_path: Path) -> None:
    metrics = train(tmp_path, *DIGITS, "test=true")
    ours = {"train/images_per_second", "train/loader_wait", "train/device_memory"}
    assert metrics.keys() == {"train/loss", "val/error", "test/error"} | ours
    resume_and_evaluate(tmp_path, "val/error", *DIGITS)
    done = run_script("predict", *CONFIG_DIR, f"run={tmp_path}", "trainer=cpu", "split=test")
    assert done.returncode == 0, done.stderr
    table = pq.read_table(tmp_path / "predictions" / "test.parquet")
    assert table.column_names == ["id", "label", *map(str, range(10))]
    assert len(set(table["id"].to_pylist())) == len(table) == 359


def test_our_classifier_trains_on_a_users_data(tmp_path: Path) -> None:
    settings = [*CONFIG_DIR, *OURS, *SHORT]
    metrics = train(tmp_path, *settings)
    assert metrics.keys() >= {"val/macro_f1", "val/accuracy", "val/loss"}
    resume_and_evaluate(tmp_path, "val/macro_f1", *settings)


def test_a_users_model_trains_on_our_shards(tiny_settings: list[str], tmp_path: Path) -> None:
    ours = [setting for setting in tiny_settings if not setting.startswith(("model", "trainer"))]
    theirs = ["model=digit_net", "model.classes=104", "monitor.metric=val/error", "monitor.mode=min"]
    settings = [*CONFIG_DIR, *ours, *theirs, *SHORT]
    assert 0 <= train(tmp_path, *settings)["val/error"] <= 1
    resume_and_evaluate(tmp_path, "val/error", *settings)


def test_a_users_classes_need_trust_without_the_users_configuration(tmp_path: Path) -> None:
    train(tmp_path, *DIGITS)
    done = run_script("evaluate", f"run={tmp_path}", "trainer=cpu")
    assert done.returncode == 1
    assert "examples.digits.digits.Digits" in done.stderr and "trust=true" in done.stderr
    done = run_script("evaluate", f"run={tmp_path}", "trainer=cpu", "trust=true")
    assert done.returncode == 0, done.stderr


PAIR = """
import lightning as L
import torch
from torch.utils.data import DataLoader

class Data(L.LightningDataModule):
    def train_dataloader(self):
        return DataLoader([(torch.ones(3), torch.tensor(1.0))] * 64, 8)
    val_dataloader = train_dataloader

class NoLoader(L.LightningDataModule):
    pass

class Net(L.LightningModule):
    def __init__(self, lr: float = 0.1, wrong: bool = False):
        super().__init__()
        self.layer, self.lr = torch.nn.Linear(3, 1), lr
        if wrong:
            raise ValueError("wrong was set")
    def training_step(self, batch, batch_idx):
        x, y = batch
        return (self.layer(x)[:, 0] - y).square().mean()
    def validation_step(self, batch, batch_idx):
        self.log("val_mse", self.training_step(batch, batch_idx))
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

class NoStep(L.LightningModule):
    pass

class NoModel:
    pass
"""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory with two plain Lightning classes that import nothing of ours, and their configuration."""
    (tmp_path / "my_pair.py").write_text(PAIR)
    for group, target in (("data", "Data"), ("model", "Net")):
        file = tmp_path / "configs" / group / "mine.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(f"_target_: my_pair.{target}\n")
    yield tmp_path
    sys.modules.pop("my_pair", None)  # the next test has another file of that name


def run_pair(pair: Path, *settings: str, name: str = "train") -> tuple[int, str, str]:
    mine = ["data=mine", "model=mine", "monitor.metric=val_mse", "monitor.mode=min", *SHORT]
    given = [*(mine if name == "train" else []), *settings, f"hydra.run.dir={pair}/run"]
    done = run_script(name, "--config-dir", str(pair / "configs"), *given, cwd=pair)
    return done.returncode, done.stdout, done.stderr


def test_a_plain_lightning_pair_trains_and_evaluates(pair: Path) -> None:
    code, output, errors = run_pair(pair, "callbacks=ema")
    assert code == 0, errors
    assert "val_mse" in output
    assert "val_mse" in json.loads((pair / "run" / "metrics.json").read_text())
    code, output, errors = run_pair(pair, f"run={pair}/run", "trainer=cpu", name="evaluate")
    assert code == 0, errors
    assert "val_mse" in output


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["model._target_=my_pair.Nett"], ["model._target_=my_pair.Nett", "Net?"]),
        (["model._target_=my_pairs.Net"], ["model._target_=my_pairs.Net", "no module my_pairs"]),
        (["+model.rate=1"], ["model.rate", "Net", "model.lr"]),
        (["+model.lr=fast"], ["model.lr=fast"]),
        (["monitor.metric=val_mae"], ["monitor.metric=val_mae", "Net", "val_mse"]),
        (["model._target_=my_pair.NoStep"], ["NoStep", "training_step()"]),
        (["data._target_=my_pair.NoLoader"], ["NoLoader", "train_dataloader()"]),
        (["model._target_=my_pair.NoModel"], ["model._target_=my_pair.NoModel", "LightningModule"]),
        (["test=true"], ["test=true", "Data", "test_dataloader()"]),
        (["model=lite0", "monitor.metric=val/loss"], ["Data", "class_names"]),
    ],
)
def test_classes_that_do_not_fit_are_reported_in_one_message(
    pair: Path, settings: list[str], expected: list[str]
) -> None:
    code, output, errors = run_pair(pair, *settings)
    assert code == 1
    assert errors.startswith("error: ") and "Traceback" not in output + errors
    for part in expected:
        assert part in errors


def test_predict_reports_the_method_that_a_data_module_lacks(pair: Path) -> None:
    assert run_pair(pair)[0] == 0
    code, output, errors = run_pair(pair, f"run={pair}/run", "trainer=cpu", name="predict")
    assert code == 1
    assert "Data" in errors and "loader(split)" in errors and "Traceback" not in output + errors


def test_a_users_own_exception_keeps_its_traceback(pair: Path) -> None:
    code, _, errors = run_pair(pair, "+model.wrong=true")
    assert code == 1
    assert "Traceback" in errors and 'raise ValueError("wrong was set")' in errors
    assert errors.rstrip().endswith("ValueError: wrong was set")


def test_the_sketches_of_the_documentation_fit_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "your-own.md").read_text()
    blocks = re.findall(r"\n( +class My\w+\(.*\n(?: .*\n)+)", page)
    imports = "from __future__ import annotations\nimport lightning as L\n"
    (tmp_path / "my_sketches.py").write_text(imports + "\n".join(map(textwrap.dedent, blocks)))
    monkeypatch.syspath_prepend(str(tmp_path))
    data = importlib.import_module("my_sketches").MyData()
    assert isinstance(make_model({"_target_": "my_sketches.MyNet"}, data), L.LightningModule)


def test_the_package_does_not_mention_the_example() -> None:
    assert not [path for path in (ROOT / "src").rglob("*.py") if "digit" in path.read_text().lower().split()]


def test_a_data_module_without_a_position_is_warned_of_on_resuming_within_an_epoch(tmp_path: Path) -> None:
    run = [*DIGITS, "trainer.max_epochs=2", f"hydra.run.dir={tmp_path}"]
    assert run_script("train", *run, "trainer.max_steps=2").returncode == 0
    done = run_script("train", *run, f"ckpt_path={tmp_path}/checkpoints/last.ckpt", "trainer.max_steps=4")
    assert done.returncode == 0, done.stderr
    assert "not resumable" in done.stderr
