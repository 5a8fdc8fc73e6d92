"""The fastest candidate is chosen, defaults are kept within the margin, and compiling must pay for itself."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import asdict

import pytest
import torch
from rich.console import Console
from torch import nn

from flowers.errors import InputError
from flowers.settings import split_own
from flowers.training.autotune import (
    Choice,
    Timing,
    Tuning,
    choose_workers,
    expected_seconds,
    find_fastest,
    gains_by_compiling,
    list_candidates,
    loader_headroom,
    make_table,
    may_gain_by_compiling,
)
from flowers.training.execution import Execution, check_compiler, network_of
from flowers.training.length import count_run_batches
from flowers.training.step_timing import time_loader
from flowers.training.tuning import read_choice

DEFAULT = Choice("32-true", True)


@pytest.mark.parametrize(
    ("precision", "formats", "expected"),
    [
        ("32-true", True, [("32-true", True), ("bf16-mixed", True), ("32-true", False), ("bf16-mixed", False)]),
        ("16-mixed", False, [("16-mixed", True), ("32-true", True), ("bf16-mixed", True)]),
        ("64-true", False, [("64-true", True)]),  # fewer bits would change more than rounding
    ],
)
def test_the_configured_candidate_comes_first(precision: str, formats: bool, expected: list[tuple[str, bool]]) -> None:
    found = list_candidates(precision, True, 3, formats=formats)
    assert [(each.precision, each.channels_last) for each in found] == expected
    assert {each.threads for each in found} == {3}


@pytest.mark.parametrize(
    ("seconds", "fastest"),
    [
        ({"a": 1.0, "b": 0.98}, "a"),
        ({"a": 1.0, "b": 0.9}, "b"),
        ({"a": 1.0, "b": 0.9, "c": 0.5}, "c"),
        ({"a": 1.0}, "a"),
    ],
)
def test_the_first_is_kept_unless_another_is_clearly_faster(seconds: dict[str, float], fastest: str) -> None:
    assert find_fastest(seconds) == fastest


def test_compiling_must_save_more_than_it_takes() -> None:
    assert not may_gain_by_compiling(None, 10.0)
    assert not may_gain_by_compiling(100, 0.5)
    assert may_gain_by_compiling(2000, 0.5)
    compiled = Timing(Choice("32-true", True, compile=True), 0.4, start_seconds=60.0)
    assert not gains_by_compiling(600, 0.5, compiled)  # 600 steps save 60 s
    assert gains_by_compiling(601, 0.5, compiled)
    assert not gains_by_compiling(10**9, 0.5, Timing(compiled.choice, None, note="failed"))


@pytest.mark.parametrize("cores", [2, 4])
@pytest.mark.parametrize("loader", [0.01, 0.5, 3.0])
def test_the_expected_time_is_bounded_by_step_loader_and_cores(cores: int, loader: float) -> None:
    for threads in range(1, cores + 1):
        for workers in range(1, cores + 1):
            seconds = expected_seconds(1.0, loader, threads, workers, cores)
            assert seconds >= max(1.0, loader / workers)
            assert seconds * cores >= threads + loader - 1e-9  # no more work than the cores can do
    assert expected_seconds(1.0, loader, 2, 0, cores) == 1.0 + loader


def test_workers_are_added_only_for_a_slow_loader() -> None:
    assert choose_workers({4: 1.0}, loader=0.1, default=3, most=4, cores=4) == (4, 3)
    assert choose_workers({1: 1.0}, loader=5.0, default=1, most=8, cores=8) == (1, 5)
    assert choose_workers({2: 1.0, 1: 1.05}, loader=1.0, default=1, most=2, cores=2) == (1, 1)  # it hardly scales
    assert choose_workers({2: 1.0, 1: 1.9}, loader=0.1, default=1, most=2, cores=2) == (2, 1)


def test_the_table_has_a_row_for_each_candidate_and_marks_the_chosen_one() -> None:
    timings = [Timing(DEFAULT, 0.5), Timing(Choice("bf16-mixed", True), None, note="failed: RuntimeError")]
    console = Console(file=io.StringIO(), width=140, force_terminal=True)
    console.print(make_table(Tuning(Choice("32-true", True, workers=1), timings, 16, None)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "32.0" in text and "500.0" in text and "failed: RuntimeError" in text
    assert "\x1b[1m32-true" in text and "\x1b[1mbf16-mixed" not in text


def test_a_choice_is_printed_as_settings() -> None:
    choice = Choice("bf16-mixed", False, threads=2)
    assert str(choice).split() == [
        *("trainer.precision=bf16-mixed", "trainer.channels_last=false", "trainer.compile=false", "trainer.threads=2")
    ]


def test_a_choice_of_another_version_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert read_choice(tmp_path, None) is None
    assert read_choice(tmp_path, asdict(DEFAULT)) == DEFAULT
    with pytest.raises(InputError, match=r"trainer\.autotune=false"):
        read_choice(tmp_path, {"precision": "32-true", "backend": "other"})


@pytest.mark.parametrize(
    ("waited", "gain"), [(0.0, 1.0), (0.5, 2.0), (0.2, 1.25), (None, None), (1.0, None), (float("nan"), None)]
)
def test_headroom(waited: float | None, gain: float | None) -> None:
    assert loader_headroom(waited) == (None if gain is None else pytest.approx(gain))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_epochs": 3}, 30),
        ({"max_epochs": 3, "limit_train_batches": 0.5}, 15),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 3, "max_steps": 4, "accumulate_grad_batches": 2}, 8),
        ({"max_epochs": -1}, None),
    ],
)
def test_the_batches_of_a_run_are_counted(settings: dict[str, float], expected: int | None) -> None:
    assert count_run_batches(settings, 10) == expected
    assert count_run_batches(settings, None) is None


class Slow:
    """A loader of batches that each take some time."""

    num_workers = 0

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[torch.Tensor]:
        shared = torch.zeros(1)  # reused, as a loader with shared memory does
        for number in range(self.batches):
            time.sleep(0.02)
            shared.fill_(number)
            yield shared


def test_the_loader_is_timed_and_its_first_batch_is_kept() -> None:
    batch, seconds = time_loader(Slow(5), seconds=10)
    assert batch == 0
    assert seconds is not None and 0.02 <= seconds < 1
    assert time_loader(Slow(1), seconds=10)[1] is None
    start = time.perf_counter()
    assert time_loader(Slow(10**6), seconds=0.05)[1] is not None
    assert time.perf_counter() - start < 5
    with pytest.raises(InputError, match="batch"):
        time_loader(Slow(0), seconds=10)


def test_the_settings_of_the_program_are_split_from_those_of_lightning() -> None:
    rest, execution = split_own({"_target_": "lightning.Trainer", "devices": 1, "compile": True}, Execution)
    assert rest == {"_target_": "lightning.Trainer", "devices": 1}
    assert execution == Execution(compile=True)


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match=r"trainer\.compile=true: .*\+\+"):
        check_compiler()


def test_a_model_without_a_network_is_its_own_network() -> None:
    model = nn.Linear(1, 1)
    assert network_of(model) is model
