"""Trainings with and without W&B alternate, and their difference is the cost."""

from __future__ import annotations

import re
from pathlib import Path
from threading import Event

import pytest

from benchmarks import wandb_overhead
from benchmarks.wandb_overhead import (
    COLUMNS,
    NONE,
    ROOT,
    ROUNDS,
    SERVERS,
    WITH,
    WITHOUT,
    Measured,
    RunFiles,
    Training,
    alternate,
    describe_cost,
    differences,
    fault_table,
    parse_arguments,
    require_success,
    time_kind,
    wait_for,
)
from flowers.errors import InputError


@pytest.mark.parametrize(
    ("arguments", "mode", "rounds", "overrides"),
    [
        (["logging"], "logging", ROUNDS["logging"], ()),
        (["logging", "12"], "logging", 12, ()),
        (["faults", "2", "data.train_size=32", "seed=1"], "faults", 2, ("data.train_size=32", "seed=1")),
        (["faults", "seed=1"], "faults", ROUNDS["faults"], ("seed=1",)),
    ],
)
def test_rounds_are_optional(arguments: list[str], mode: str, rounds: int, overrides: tuple[str, ...]) -> None:
    parsed = parse_arguments(arguments)
    assert (parsed.mode, parsed.rounds, parsed.overrides) == (mode, rounds, overrides)


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["online"], ["faults", "0"], ["logging", "-1"], ["logging", "x"]]
)
def test_other_arguments_are_refused_with_the_usage(arguments: list[str]) -> None:
    with pytest.raises(InputError, match=r"python -m benchmarks.wandb_overhead logging\|faults"):
        parse_arguments(arguments)


def test_the_documentation_has_these_commands_and_this_table() -> None:
    page = (ROOT / "docs" / "look.md").read_text()
    commands = re.findall(r"python -m benchmarks\.wandb_overhead ([^`#\n]+)", page)
    assert {parse_arguments(command.split()).mode for command in commands} == set(ROUNDS)
    assert f"| {' | '.join(COLUMNS)} |" in page
    assert all(f"| {name} |" in page for name in (NONE, *SERVERS))


def test_each_kind_comes_first_equally_often() -> None:
    orders = [alternate(("a", "b"), number) for number in range(ROUNDS["logging"])]
    assert all(sorted(order) == ["a", "b"] for order in orders)
    firsts = [order[0] for order in orders]
    assert firsts.count("a") == firsts.count("b")


def test_a_drift_of_the_machine_cancels() -> None:
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    clock = 0.0
    for number in range(4):
        for name in alternate(("with", "without"), number):
            seconds[name].append(60 + clock + (2 if name == "with" else 0))
            clock += 0.5  # each training is slower than the one before
    assert sorted(differences(seconds["with"], seconds["without"])) == [1.5, 1.5, 2.5, 2.5]
    assert " +2.0 s" in describe_cost(seconds["with"], seconds["without"])


def test_the_cost_is_the_median_difference() -> None:
    described = describe_cost([44.0, 41.0, 90.0], [40.0, 40.0, 50.0])
    assert "+4.0 s, +10.0 %" in described and "3 pairs" in described and "+1.0 to +40.0 s" in described


def test_the_table_has_the_cost_and_the_results_of_each_server() -> None:
    left = RunFiles(metrics=True, rows=7, exit_code=0)
    offline = Measured([Training(20.0, 0, "")] * 2, [20.0, 20.0], [left] * 2)
    hung = Measured(
        [Training(24.0, 0, ""), Training(26.0, 1, "")],
        [20.0, 20.0],
        [left, RunFiles(metrics=False, rows=7, exit_code=None)],
    )
    header, rule, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in fault_table({NONE: offline, "hangs": hung})
    ]
    assert header == list(COLUMNS) and set(rule) == {"---"}
    assert rows == [
        [NONE, "20.0", "", "", "0", "yes", "7", "0"],
        ["hangs", "25.0", "+5.0 s", "+25.0 %", "0, 1", "yes, no", "7", "0, none"],
    ]


def test_an_injected_fault_waits_for_the_first_epoch(tmp_path: Path) -> None:
    fault, ended = SERVERS["hangs after an epoch"], Event()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert wait_for(fault, tmp_path, 0, ended)
    ended.set()
    assert not wait_for(fault, tmp_path / "elsewhere", 0, ended)


def test_an_injected_fault_waits_for_half_time(tmp_path: Path) -> None:
    fault, ended = SERVERS["vanishes at half time"], Event()
    assert wait_for(fault, tmp_path, 0.01, ended)
    ended.set()
    assert not wait_for(fault, tmp_path, 60, ended)


@pytest.mark.parametrize(("logs", "right", "wrong"), [(True, WITH, WITHOUT), (False, WITHOUT, WITH)])
def test_a_pair_that_does_not_differ_in_wandb_is_refused(
    logs: bool, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(run: Path, overrides: object, environment: object) -> Training:
        if logs:
            (run / "wandb" / "offline-run-1").mkdir(parents=True)
            (run / "wandb" / "offline-run-1" / "run-1.wandb").touch()
        return Training(1.0, 0, "")

    monkeypatch.setattr(wandb_overhead, "train", train)
    assert time_kind(right, []) == 1.0
    with pytest.raises(InputError, match="W&B run"):
        time_kind(wrong, [])


def test_a_training_that_fails_is_reported_with_its_last_line() -> None:
    with pytest.raises(InputError, match=r"exit status 1: optimiser=sgd: no such setting"):
        require_success(Training(1.0, 1, "a warning\nerror: optimiser=sgd: no such setting\n"))
    require_success(Training(1.0, 0, "a warning"))
