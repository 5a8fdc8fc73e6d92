"""`trainer.autotune=true` records a choice that training, evaluation and resumed runs use; networks are compiled."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from benchmarks.step.run import benchmark_step
from flowers.errors import InputError
from flowers.training import autotune, execution, train, tuning
from tests.commands.test_resuming import train_here
from tests.helpers.commands import run_script
from tests.helpers.configuration import check

SMALL = ["data.train_size=32", "data.eval_size=32", "trainer.max_epochs=2", "+trainer.limit_val_batches=1"]


class StopAfterOneEpoch(Callback):
    """Ends a run after its first epoch."""

    def on_train_epoch_end(self, trainer, pl_module):  # type: ignore[no-untyped-def]
        trainer.should_stop = True


STOP = "+callbacks.stop._target_=tests.commands.test_autotune.StopAfterOneEpoch"


def choose_last(seconds: dict[autotune.Choice, float]) -> autotune.Choice:
    """Choose the candidate that differs most from the default."""
    return list(seconds)[-1]


@pytest.mark.slow
def test_a_tuned_run_that_is_resumed_equals_an_uninterrupted_run_with_the_chosen_settings(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["trainer.precision=bf16-mixed", "trainer.channels_last=false"]
    expected = torch.load(train_here(tmp_path / "whole", tiny_settings, *SMALL, *chosen), weights_only=True)

    monkeypatch.setattr(tuning, "find_fastest", choose_last)
    run = tmp_path / "run"
    last = train_here(run, tiny_settings, *SMALL, "trainer.autotune=true", STOP)
    assert capsys.readouterr().out.count("bf16-mixed") >= 3  # two candidates, and the choice
    config, recorded = OmegaConf.load(run / "config.yaml"), json.loads((run / "autotune.json").read_text())
    assert (config.trainer.precision, config.trainer.channels_last) == ("bf16-mixed", False)
    assert recorded["choice"] == torch.load(last, weights_only=True)["autotune"]
    assert [timing["seconds"] is not None for timing in recorded["timings"]] == [True] * 4 + [False]

    monkeypatch.setattr(train, "choose_execution", None)  # a resumed run is not tuned
    resumed = train_here(run, tiny_settings, *SMALL, "trainer.autotune=true", f"ckpt_path={last}")
    found = torch.load(resumed, weights_only=True)
    assert OmegaConf.load(run / "config.yaml").trainer.precision == "bf16-mixed"
    assert found["autotune"] == recorded["choice"]
    assert found["epoch"] == expected["epoch"] == 1
    for name, weight in expected["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], weight, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("settings", "key"), [(["trainer=ddp_sim"], "trainer.autotune=true: "), (["trainer.devices=2"], "trainer.autotune")]
)
def test_several_processes_are_not_tuned(
    settings: list[str], key: str, tiny_settings: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=key):
        train_here(tmp_path, tiny_settings, "trainer.autotune=true", *settings)


def test_evaluation_and_prediction_are_tuned_and_measured(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    for name, more in (("evaluate", "report=false"), ("predict", "split=val")):
        done = run_script(name, f"run={run}", "trainer=cpu", "trainer.autotune=true", "data.batch_size=16", more)
        assert done.returncode == 0, done.stderr
        assert "Chosen: trainer.precision=" in done.stdout
        assert "images/s" in done.stdout.splitlines()[-2] + done.stdout.splitlines()[-1]


def test_a_compiled_network_has_the_same_weights_and_their_names(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[bool] = []

    def compile_quickly(function, **options):  # type: ignore[no-untyped-def]
        calls.append(options["dynamic"])
        return original(function, backend="eager", **options)  # traced, but no C++ is compiled

    original = torch.compile
    monkeypatch.setattr(torch, "compile", compile_quickly)
    small = [*SMALL, "trainer.max_epochs=1", "+trainer.limit_train_batches=2", "data.batch_size=8"]
    plain = torch.load(train_here(tmp_path / "plain", tiny_settings, *small), weights_only=True)["state_dict"]
    run = tmp_path / "run"
    compiled = torch.load(train_here(run, tiny_settings, *small, "trainer.compile=true"), weights_only=True)
    assert compiled["state_dict"].keys() == plain.keys()  # without _orig_mod
    torch.testing.assert_close(compiled["state_dict"], plain)
    assert OmegaConf.load(run / "config.yaml").trainer.compile is True
    done = run_script("predict", f"run={run}", "trainer=cpu", "trainer.compile=true", "split=val")
    assert done.returncode == 0, done.stderr
    assert calls == [False, False]


def test_a_network_that_cannot_be_compiled_is_reported(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "has_compiler", lambda: False)
    with pytest.raises(InputError, match=r"trainer\.compile=true: "):
        train_here(tmp_path, tiny_settings, "trainer.compile=true", "trainer.max_epochs=1")


def test_an_error_of_the_compiler_is_explained(
    tiny_settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class BrokenCompiler(RuntimeError):
        __module__ = "torch._inductor.exc"

    def fail(*inputs: object, **options: object) -> None:
        raise BrokenCompiler("no template")

    monkeypatch.setattr(torch, "compile", lambda function, **options: fail)
    with pytest.raises(InputError, match=r"trainer\.compile=true: .*BrokenCompiler: no template"):
        train_here(tmp_path, tiny_settings, *SMALL, "trainer.compile=true")


def test_the_benchmark_of_a_step_is_not_tuned() -> None:
    with pytest.raises(InputError, match=r"trainer\.autotune=true: "):
        benchmark_step(check("benchmark_step", "trainer.autotune=true"))


def test_a_training_reports_its_headroom(trained: Path) -> None:
    assert re.search(r"Headroom: +\d+\.\d\d times", (trained / "stdout.txt").read_text())
