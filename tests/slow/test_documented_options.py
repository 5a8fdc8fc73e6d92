"""Options and experiments that the documentation names run one batch of each stage."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from flowers.models.backbone import create_backbone
from tests.helpers.commands import ROOT, run_script

FIXRES = ["experiment=fixres", "model.pretrained=RUN/checkpoints/best.ckpt", "data.image_size=224"]
OPTIONS = [
    ["experiment=small_set", "data.image_size=224"],
    ["experiment=cpu_ten_minutes"],
    ["experiment=example"],
    ["experiment=distill", "model.teacher=RUN"],
    FIXRES,
    ["optimizer=timm", "optimizer.opt=lion", "optimizer.lr=1e-4"],
    ["optimizer=timm", "optimizer.opt=lamb", "optimizer.lr=5e-3", "+optimizer.trust_clip=true"],
    ["optimizer=sgd"],
    ["scheduler=competition"],
    ["data/eval=timm"],
    [
        "data.train_transform=[{_target_: albumentations.RandomCrop, height: 64, width: 64}, "
        "{_target_: albumentations.D4}]"
    ],
    *([f"data/augment={path.stem}"] for path in sorted((ROOT / "configs/data/augment").glob("*.yaml"))),
]
OWN_PAGE = (ROOT / "docs" / "your-own.md").read_text()
TINY = ["model.backbone=test_efficientnet", "data.train_size=64", "data.eval_size=64", "data.num_workers=1"]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[0][:40])
def test_an_option_runs(option: list[str], garden: Path, trained: Path, tmp_path: Path) -> None:
    settings = [setting.replace("RUN", str(trained)) for setting in option]
    pretrained = [] if option is FIXRES else ["model.pretrained=false"]
    sizes = ["model.train_sizes=[32,64]"] if "experiment=cpu_ten_minutes" in option else []
    run = f"hydra.run.dir={tmp_path}/run"
    done = run_script(
        "train", "data=tfrecords", *settings, f"data.root={garden}", *TINY, *pretrained, *sizes, "debug=fdr", run
    )
    assert done.returncode == 0, done.stderr


def test_fixres_changes_the_head_and_the_normalisation_only(garden: Path, trained: Path, tmp_path: Path) -> None:
    settings = [setting.replace("RUN", str(trained)) for setting in FIXRES]
    short = ["+trainer.limit_train_batches=2", "logger=csv", "report=false", f"hydra.run.dir={tmp_path}/run"]
    done = run_script("train", f"data.root={garden}", *settings, *TINY, *short)
    assert done.returncode == 0, done.stderr
    before, after = (
        torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for run in (trained, tmp_path / "run")
    )
    model = create_backbone("test_efficientnet", 2, False)
    parts = {"classifier", *(name for name, module in model.named_modules() if isinstance(module, _BatchNorm))}
    weights = {name for name, _ in model.named_parameters() if name.rpartition(".")[0] in parts}
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"backbone.{name}" for name in weights}


def test_the_augmentation_of_the_documentation_runs(garden: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/data-howto.md").read_text()
    shown = re.search(r"(    # @package data\n(?:    .*\n)+)", page)
    assert shown is not None
    (tmp_path / "data/augment").mkdir(parents=True)
    text = re.sub("^    ", "", shown[1], flags=re.MULTILINE)
    (tmp_path / "data/augment/mine.yaml").write_text(text)
    settings = ["data=tfrecords", f"data.root={garden}", "data/augment=mine", *TINY, "model.pretrained=false"]
    added = f"hydra.searchpath=[file://{tmp_path}]"
    done = run_script("train", *settings, added, "debug=fdr", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 0, done.stderr


def test_a_grid_runs_all_its_jobs(garden: Path, tmp_path: Path) -> None:
    settings = ["data=tfrecords", f"data.root={garden}", *TINY, "model.pretrained=false"]
    done = run_script("train", "hparams_search=grid", *settings, "debug=fdr", f"hydra.sweep.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*/.hydra"))) == 6 or len([path for path in tmp_path.iterdir() if path.is_dir()]) == 6


@pytest.fixture
def small_net(garden: Path, tmp_path: Path) -> list[str]:
    """Write the model and the experiment of docs/your-own.md to `tmp_path`, and return settings that find both."""
    blocks = [textwrap.dedent(block) for block in re.findall(r"\n\n((?:(?:    .*)?\n)+)", OWN_PAGE)]
    code, settings, experiment = (
        next(block for block in blocks if start in block)
        for start in ("class SmallNet", "_target_: small_net.SmallNet", "override /model: small_net")
    )
    (tmp_path / "small_net.py").write_text(code)
    for name, text in (("model/small_net", settings), ("experiment/mine", experiment)):
        (tmp_path / "configs" / name).parent.mkdir(parents=True)
        (tmp_path / "configs" / f"{name}.yaml").write_text(text)
    data = ["data=tfrecords", f"data.root={garden}", "data.train_size=32", "data.eval_size=32", "data.num_workers=1"]
    return [*data, f"hydra.searchpath=[file://{tmp_path}/configs]"]


def test_the_model_and_the_experiment_of_the_documentation_run(small_net: list[str], tmp_path: Path) -> None:
    run, settings = tmp_path / "run", ["experiment=mine", *small_net, "trainer.max_epochs=1"]
    done = run_script("train", *settings, f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run / "report/index.html").exists()
    done = run_script("predict", f"run={run}", "split=test", "trust=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (run / "submission.csv").exists()


def shown_overrides(part: str) -> list[str]:
    """Return the overrides of the only command of docs/your-own.md that has this part."""
    text = OWN_PAGE.replace("\\\n", " ")
    (command,) = (line for line in text.splitlines() if line.strip().startswith("python src/") and part in line)
    return shlex.split(command)[2:]


def test_an_own_model_is_debugged_as_documented(small_net: list[str], tmp_path: Path) -> None:
    settings = [*shown_overrides("debug=overfit"), *small_net, "trainer=cpu", "trainer.max_epochs=1", "report=false"]
    done = run_script("train", *settings, "logger=csv", f"hydra.run.dir={tmp_path}/run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_own_model_is_searched_as_documented(small_net: list[str], tmp_path: Path) -> None:
    short = ["trials=1", "trainer=cpu", "trainer.max_epochs=1", "logger=csv", "report=false"]
    settings = [*shown_overrides("+space="), *small_net, *short, f"output={tmp_path}/search"]
    done = run_script("search", *settings, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 complete" in done.stdout
    assert "model.width" in done.stdout and "model.lr" in done.stdout
