"""`python src/search.py` searches with real trainings, and prints the command that trains with the best settings."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml
from wandb.sdk.sweeps.scheduler.optuna import sweep_parameter_to_distribution

from flowers.settings import quote, typed
from flowers.training.runs import Run
from tests.helpers.commands import run_script
from tests.helpers.configuration import check

SPACE = "space={optimizer.weight_decay: null, model.mixup_alpha: null}"


def output_setting(directory: Path) -> str:
    return f"output={quote(str(directory))}"


@pytest.fixture(scope="module")
def searched(tiny_settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the directory of a search of three trials, and what it printed."""
    directory = tmp_path_factory.mktemp("searches") / "größe"  # has to be quoted for the trainings
    done = run_script(
        "search", *tiny_settings, "data.num_workers=0", "trials=3", f"output={quote(str(directory))}", SPACE
    )
    assert done.returncode == 0, done.stderr
    return directory, done.stdout


@pytest.mark.slow
def test_each_trial_is_a_run_with_its_settings(searched: tuple[Path, str]) -> None:
    directory, printed = searched
    trials = dict(re.findall(r"^Trial (\d): (\w.*=.*)$", printed, re.MULTILINE))
    assert set(trials) == {"0", "1", "2"}
    for number, shown in trials.items():
        config = Run(directory / f"trial-{number}").config()
        values = dict(override.split("=") for override in shown.split())
        assert config.optimizer.lr == pytest.approx(float(values["optimizer.lr"]), rel=1e-3)
        assert config.model.label_smoothing == float(values["model.label_smoothing"])
        assert config.data.root == check("train", f"data.root={config.data.root}").data["root"]


@pytest.mark.slow
def test_the_best_command_is_one_that_trains(searched: tuple[Path, str]) -> None:
    directory, printed = searched
    assert "3 complete" in printed
    (shown,) = re.findall(r"python (src/train\.py .*)", printed)
    script, *overrides = shlex.split(shown)
    assert script == "src/train.py"
    settings = check("train", *overrides)
    rates = [Run(directory / f"trial-{number}").config().optimizer.lr for number in range(3)]
    assert settings.optimizer["lr"] in rates


@pytest.mark.slow
def test_running_it_again_repeats_no_trial(searched: tuple[Path, str], tiny_settings: list[str]) -> None:
    directory, printed = searched
    before = {path: path.stat().st_mtime_ns for path in directory.glob("trial-*/metrics.json")}
    done = run_script(
        "search", *tiny_settings, "data.num_workers=0", "trials=3", f"output={quote(str(directory))}", SPACE
    )
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in directory.glob("trial-*/metrics.json")} == before
    header, _, results = done.stdout.partition("\n")
    assert typed("output", directory) in header and printed.endswith(results)


@pytest.mark.slow
def test_a_sweep_file_is_read_by_wandb_and_its_values_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    done = run_script("search", "hparams_search=optuna", "trainer=cpu", f"sweep={path}")
    assert done.returncode == 0, done.stderr
    sweep = yaml.safe_load(path.read_text())
    assert sweep["program"] == "src/train.py" and sweep["method"] == "bayes"
    assert sweep["metric"] == {"name": "val/macro_f1", "goal": "maximize"}
    assert sweep["early_terminate"]["type"] == "hyperband"
    assert "trainer=cpu" in sweep["command"] and not any("sweep" in part for part in sweep["command"])
    for key, parameter in sweep["parameters"].items():
        sweep_parameter_to_distribution(parameter)
        for value in parameter.get("values", [parameter.get("min")]):
            check("train", f"{key}={value}")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [
        ("search", ["space={optimizer.lr:{low:-1.0}}"], "error: space.optimizer.lr.low=-1.0: "),
        ("search", ["hparams_search=grid", "hydra.mode=RUN"], "error: hparams_search: "),
        ("search", ["trainer.max_epoch=3"], "error: trainer.max_epoch: "),
        ("train", ["hparams_search=optuna"], "error: hparams_search=optuna: "),
    ],
)
def test_bad_settings_end_with_one_message(name: str, overrides: list[str], expected: str, tmp_path: Path) -> None:
    output = [f"output={tmp_path}/out"] if name == "search" else [f"hydra.run.dir={tmp_path}/run"]
    done = run_script(name, *overrides, *output)
    assert done.returncode == 1
    assert done.stderr.startswith(expected), done.stderr
    assert not (tmp_path / "out").exists()


def test_help_lists_the_settings() -> None:
    done = run_script("search", "--help")
    assert done.returncode == 0, done.stderr
    assert "hparams_search: grid, optuna" in done.stdout and "trials:" in done.stdout
