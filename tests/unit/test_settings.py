"""Settings are checked against the signature of their target, whether it is ours, a library's or a user's."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from pydantic import Field

from flowers.errors import InputError
from flowers.settings import Rule, find_node_problems, flatten, quote, typed
from flowers.targets import locate

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]

HERE = "tests.unit.test_settings"


class Net:
    """A user's class with every kind of parameter."""

    def __init__(
        self,
        width: Annotated[int, Field(gt=0, le=8)],
        rate: float = 0.1,
        shape: tuple[int, int] = (1, 2),
        name: str | None = None,
        unknown: Unknown = None,
        bare=None,  # type: ignore[no-untyped-def]
        path: Path | None = None,
    ) -> None:
        raise NotImplementedError  # checking must not instantiate it


class Open(Net):
    def __init__(self, depth: int = 1, **others: Any) -> None:
        super().__init__(**others)


def node(target: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"{HERE}.{target}", **settings}


@pytest.mark.parametrize(
    "settings",
    [
        {"width": 8},
        {"width": 1, "rate": 1, "shape": [3, 4], "name": None, "unknown": [1], "bare": {"a": 1}, "path": "a/b"},
        {"_partial_": True},
        {"_args_": [3], "name": "x", "_convert_": "all", "_recursive_": False},
        {"width": 1, "bare": [{"_target_": f"{HERE}.Net", "width": 2}]},
    ],
)
def test_settings_that_fit_a_signature_have_no_problems(settings: dict[str, Any]) -> None:
    assert find_node_problems("model", node("Net", **settings)) == []


@pytest.mark.parametrize(
    ("settings", "places"),
    [
        ({}, ["model.width: "]),
        ({"width": 9}, ["model.width=9: "]),
        ({"width": "3"}, ["model.width=3: "]),
        ({"width": True}, ["model.width=True: "]),
        ({"width": 1, "widths": 2}, ["model.widths: "]),
        ({"width": 1, "shape": [1, "b"]}, ["model.shape.1=b: "]),
        ({"width": 1, "shape": [1, 2, 3]}, ["model.shape=[1, 2, 3]: "]),
        ({"width": 1, "name": 3, "rate": "fast"}, ["model.name=3: ", "model.rate=fast: "]),
        ({"width": 1, "bare": [{"_target_": f"{HERE}.Net", "width": "2"}]}, ["model.bare.0.width=2: "]),
        ({"width": 1, "bare": {"a": {"_target_": f"{HERE}.Nett"}}}, [f"model.bare.a._target_={HERE}.Nett: "]),
        (
            {"_args_": [{"_target_": f"{HERE}.Net", "wid": 1}], "_partial_": True},
            ["model._args_.wid: ", "model._args_.width: "],
        ),
    ],
)
def test_each_problem_starts_with_its_place(settings: dict[str, Any], places: list[str]) -> None:
    problems = find_node_problems("model", node("Net", **settings))
    assert len(problems) == len(places)
    for problem, place in zip(problems, places, strict=True):
        assert problem.startswith(place)


def test_an_unknown_key_gets_the_nearest_name() -> None:
    (problem,) = find_node_problems("model", node("Net", width=1, widths=2))
    assert problem.endswith("model.width?")


def test_extra_keys_of_a_class_with_kwargs_are_not_checked() -> None:
    assert find_node_problems("model", node("Open", anything=1)) == []
    (problem,) = find_node_problems("model", node("Open", anything=1, depth="x"))
    assert problem.startswith("model.depth=x: ")


def test_given_keys_are_optional_and_reserved_keys_are_refused() -> None:
    assert find_node_problems("model", node("Net"), Rule(given=["width"])) == []
    assert find_node_problems("model", node("Net", width=1), Rule(given=["width"])) == []
    assert find_node_problems("model", node("Net"), Rule(reserved=["width"])) == []
    (problem,) = find_node_problems("model", node("Net", width=1), Rule(reserved=["width"]))
    assert problem.startswith("model.width: ")
    (problem,) = find_node_problems("model", node("Net", width=7), Rule(ranges={"width": Annotated[int, Field(lt=7)]}))
    assert problem.startswith("model.width=7: ")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("nowhere.Net", "no module nowhere"),
        ("flowers.nowhere.Net", "flowers has no nowhere"),
        ("flowers.models.classifier.FlowerClasifier", "FlowerClassifier?"),
        ("flowers.models.classifier", "found a module"),
        ("Net", "dotted path"),
        ("flowers..models", "dotted path"),
        (3, "dotted path"),
    ],
)
def test_a_target_that_cannot_be_imported_is_explained(target: object, expected: str) -> None:
    with pytest.raises(InputError, match=r"^model\._target_=") as raised:
        locate(target, "model")
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    "line", ["import a_package_that_is_not_installed", "1 / 0", "from os import nothing_like_that"]
)
def test_errors_raised_by_a_users_module_are_not_converted(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    name = f"broken_{abs(hash(line))}"
    (tmp_path / f"{name}.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((ImportError, ZeroDivisionError)):
        locate(f"{name}.Net", "model")


def test_the_own_settings_of_the_program_are_checked_like_those_of_the_target() -> None:
    rule = Rule(own=Open)
    node = {"_target_": f"{HERE}.Net", "width": 1}
    assert find_node_problems("net", {**node, "depth": 2}, rule) == []
    assert find_node_problems("net", {**node, "depth": 2}) != []
    (problem,) = find_node_problems("net", {**node, "depth": "deep"}, rule)
    assert problem.startswith("net.depth=deep: ")
    (problem,) = find_node_problems("net", {**node, "deph": 2}, rule)
    assert "net.depth?" in problem


@pytest.mark.parametrize(
    "value",
    [
        *("logs/a b/x=1", "/home/größe/日本", "null", "12", "1e3", "true", "it's", "a\\", "a\\'b\\\\", "logs/x.ckpt"),
        *("", "[1]", "${oc.env:HOME}", "a,b", "{a}"),
    ],
)
def test_a_quoted_value_is_one_string_to_hydra(value: str) -> None:
    quoted, words = f"key={quote(value)}", shlex.split(typed("key", value))
    for override in OverridesParser.create().parse_overrides([quoted, *words]):
        assert override.value() == value and not override.is_sweep_override()
    assert words == [quoted]


def test_settings_are_named_by_dotted_keys() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": {}})) == {"a.b": 1, "a.c.d": [2], "e": {}}
