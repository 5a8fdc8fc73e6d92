"""A directory belongs to one cross-validation with one set of settings, and to one process at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowers.cross_validation.plan import Call, Plan, claim
from flowers.errors import InputError


def make_plan(directory: Path, **kept: Any) -> Plan:
    values: dict[str, Any] = {"folds": 5, "optimizer": {"lr": 0.1}, "tags": ["a"]} | kept
    call = Call(["optimizer.lr=0.1"], "again", [])
    return Plan(directory, None, values, call, None, None)  # type: ignore[arg-type]


def test_the_same_settings_continue(tmp_path: Path) -> None:
    for _ in range(2):
        with claim(make_plan(tmp_path)):
            pass
    assert json.loads((tmp_path / "settings.json").read_text())["overrides"] == ["optimizer.lr=0.1"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"folds": 3}, "folds: 5 there, 3 here"),
        ({"optimizer": {"lr": 0.2}}, "optimizer.lr: 0.1 there, 0.2 here"),
        ({"optimizer": {"lr": 0.1, "eps": 1}}, "optimizer.eps: none there, 1 here"),
        ({"optimizer": {}}, "optimizer.lr: 0.1 there, none here"),
        ({"tags": ["a", "b"]}, "tags: ['a'] there, ['a', 'b'] here"),
    ],
)
def test_other_settings_are_refused_with_both_values(tmp_path: Path, changed: dict[str, Any], expected: str) -> None:
    with claim(make_plan(tmp_path)):
        pass
    before = (tmp_path / "settings.json").read_bytes()
    with pytest.raises(InputError) as raised, claim(make_plan(tmp_path, **changed)):
        pass
    assert expected in str(raised.value)
    assert "folds=5 optimizer.lr=0.1" in str(raised.value)  # what to type
    assert (tmp_path / "settings.json").read_bytes() == before


def test_a_second_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claim(make_plan(tmp_path)), pytest.raises(InputError, match=str(tmp_path)), claim(make_plan(tmp_path)):
        raise AssertionError("the directory was claimed twice")


def test_a_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match=r"metrics\.json"), claim(make_plan(tmp_path)):
        pass
    assert not (tmp_path / "settings.json").exists()


def test_a_call_that_was_killed_before_it_kept_its_settings_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "settings.json.0123456789abcdef.part").write_text("{")
    with claim(make_plan(tmp_path)):
        pass
    assert json.loads((tmp_path / "settings.json").read_text())["overrides"] == ["optimizer.lr=0.1"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"overrides": 1, "settings": {}}', '{"overrides": [], "settings": 1}']
)
def test_damaged_settings_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(InputError, match=r"settings\.json"), claim(make_plan(tmp_path)):
        pass
