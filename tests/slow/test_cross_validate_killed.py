"""A killed cross-validation is continued to the table of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.test_cross_validate import FOLDS, call, table_of
from tests.helpers.commands import ScriptProcess, run_script


@pytest.fixture(scope="module")
def settings(tiny_settings: list[str]) -> list[str]:
    """Return settings whose training takes long enough to be killed within it, with a checkpoint at each step."""
    steps = ["data.batch_size=4", "data.num_workers=0", "callbacks.last_checkpoint.every_n_steps=1"]
    return [*tiny_settings, *steps, "trainer.max_epochs=2"]


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return the directory of an uninterrupted cross-validation, and what was printed."""
    output = tmp_path_factory.mktemp("whole") / "out"
    done = call(output, settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


def start(output: Path, settings: list[str]) -> ScriptProcess:
    return ScriptProcess("cross_validate", f"folds={FOLDS}", f"output={output}", *settings, "logger=csv")


def wait_until(condition: Callable[[], object], command: ScriptProcess) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert command.process.is_alive(), command.stdout + command.stderr
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_kills_while_training_between_folds_and_while_predicting_change_nothing(
    settings: list[str], whole: tuple[Path, str], tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    first, second = output / "fold-0", output / "fold-1"
    moments: list[Callable[[], object]] = [
        lambda: (first / "checkpoints" / "last.ckpt").exists(),
        lambda: (first / "metrics.json").exists(),
        lambda: list(output.glob("fold-*/predictions/*.part")),
    ]
    states = []
    for moment in moments:
        command = start(output, settings)
        wait_until(moment, command)
        command.process.kill()
        command.process.join()
        states.append([(run / "metrics.json").exists() for run in (first, second)])
    assert states == [[False, False], [True, False], [True, True]]  # the kills were at different points
    again = call(output, settings)
    assert again.returncode == 0, again.stdout + again.stderr
    assert list(output.rglob("*.part")) == []
    assert "Resuming from" in (first / "console.log").read_text()
    assert table_of(again.stdout) == table_of(whole[1]) != []
    scores = [json.loads((each / "cross_validation.json").read_text()) for each in (whole[0], output)]
    assert scores[0]["over_folds"].keys() >= {"val/loss", "val/accuracy", "val/macro_f1"}
    assert scores[0]["out_of_fold"] == scores[1]["out_of_fold"]
    for name in ("val/loss", "val/accuracy", "val/macro_f1"):
        assert scores[0]["over_folds"][name] == scores[1]["over_folds"][name]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_training_in_order(settings: list[str], tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out"
    command = start(output, settings)
    wait_until(lambda: (output / "fold-0" / "checkpoints" / "last.ckpt").exists(), command)
    os.killpg(command.pid, number)
    done = command.wait()
    assert done.returncode == 128 + number, done.stderr
    assert f"output={output}" in done.stderr  # the command that continues it
    assert "Traceback" not in done.stdout + done.stderr
    assert "Resume with ckpt_path=" in (output / "fold-0" / "console.log").read_text()  # the training's own message


def test_a_training_that_was_killed_after_its_last_step_is_not_repeated(
    settings: list[str], whole: tuple[Path, str]
) -> None:
    output, _ = whole
    run = output / "fold-1"
    before, best = (
        json.loads((run / "metrics.json").read_text()),
        (run / "checkpoints" / "best.ckpt").stat().st_mtime_ns,
    )
    (run / "metrics.json").unlink()
    again = call(output, settings)
    assert again.returncode == 0, again.stderr
    assert (run / "checkpoints" / "best.ckpt").stat().st_mtime_ns == best
    after = json.loads((run / "metrics.json").read_text())
    assert after == {name: pytest.approx(before[name], abs=1e-5) for name in after}
    assert {"val/loss", "val/macro_f1"} <= after.keys()


def test_a_second_process_on_the_same_directory_is_refused(settings: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = start(output, settings)
    wait_until(lambda: (output / "settings.json").exists(), command)
    done = run_script("cross_validate", f"folds={FOLDS}", f"output={output}", *settings, "logger=csv")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {output}: "), done.stderr
    os.kill(command.pid, signal.SIGTERM)
    assert command.wait().returncode == 128 + signal.SIGTERM
