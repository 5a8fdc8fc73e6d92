"""Check settings against the signatures that take them.

A setting is declared once, as a parameter of the class or function that takes it, with its type and range. Its default
is in `configs/`. A node is a mapping with a `_target_`; everything else is data. Every `_target_` is checked in the
same way, whether it belongs to this project, a library or a user: the names of its arguments against the signature,
their values against the annotations.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticCustomError

from flowers.errors import InputError, nearest
from flowers.targets import hints_of, is_required, locate, parameters_of

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
"""A seed that NumPy's global generator accepts."""
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["min", "max"]


def _check_target(value: dict[str, Any]) -> dict[str, Any]:
    if "_target_" not in value:
        raise PydanticCustomError("node", "a mapping with a _target_")
    return value


Node: TypeAlias = Annotated[dict[str, Any], AfterValidator(_check_target)]
"""The description of an object: a mapping with a `_target_`."""
Nodes: TypeAlias = dict[str, Node | None] | None
"""Nodes by name. None removes a node that a configuration file defines, or all of them."""

Settings = TypeVar("Settings")

_HYDRA_WORDS = {"null", "true", "false", "inf", "nan"}
_HYDRA_KEYS = {"_target_", "_partial_", "_args_", "_convert_", "_recursive_"}
_INSTANCES = {"callable_type", "is_instance_of", "is_subclass_of", "needs_python_object"}
"""pydantic's error types for annotations that no plain value can satisfy."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of configs/paths/."""

    data_dir: str
    kaggle_dir: str
    cache_dir: str
    log_dir: str
    output_dir: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Rules for a node's settings beyond the signature of its target.

    given: parameters that the program sets if no setting does.
    reserved: parameters that only the program sets.
    ranges: narrower types than those of the signature, by parameter.
    own: a dataclass that declares further settings of the node, which the program takes itself; see `split_own`.
    """

    given: Collection[str] = ()
    reserved: Collection[str] = ()
    ranges: Mapping[str, Any] = field(default_factory=dict)
    own: type[Any] | None = None


def split_own(node: Mapping[str, Any], own: type[Settings]) -> tuple[dict[str, Any], Settings]:
    """Split a node's settings into those of its target and the program's own, which the dataclass `own` declares."""
    names, _ = parameters_of(own)
    rest = {name: value for name, value in node.items() if name not in names}
    return rest, own(**{name: value for name, value in node.items() if name in names})


def load_settings(settings: type[Settings], config: DictConfig, rules: Mapping[str, Rule] | None = None) -> Settings:
    """Check a command's composed configuration, and return it as the dataclass that declares its settings.

    Args:
        settings: the dataclass.
        config: the configuration.
        rules: further rules for some of the nodes, by key.

    Raises:
        InputError: settings are unknown, missing, of another type, or out of range; the message has a line for each.
    """
    values = cast(dict[str, Any], OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    raise_problems(_find_problems("", values, settings, Rule(), rules or {}))
    return TypeAdapter(settings).validate_python(values)


def raise_problems(problems: Collection[str]) -> None:
    """Raise `InputError` with one line for each problem; do nothing if there is none."""
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))


def is_node(value: object) -> bool:
    """Return whether a value describes an object."""
    return isinstance(value, Mapping) and "_target_" in value


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the settings of nested mappings with their dotted keys. Lists are values."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def quote(value: str) -> str:
    """Quote a value for an override if Hydra would not take it as one string.

    Hydra reads letters beyond ASCII, numbers and words such as `null` as strings only within quotes.
    """
    if re.fullmatch(r"[./]*[A-Za-z_][\w./:@%+-]*", value, re.ASCII) and value.lower() not in _HYDRA_WORDS:
        return value
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def typed(key: str, value: object) -> str:
    """Return a setting of text as it is typed in a shell."""
    setting = f"{key}={quote(str(value))}"
    readable = "'" in setting and not re.search(r'["$`\\!]', setting)
    return f'"{setting}"' if readable else shlex.quote(setting)


def find_node_problems(key: str, node: Mapping[str, Any], rule: Rule | None = None) -> list[str]:
    """Find the problems of a node's settings and of the nodes within it; one line each.

    Args:
        key: the node's place in the configuration.
        node: its `_target_` and settings.
        rule: the rules beyond the target's signature.
    """
    try:
        target = locate(node["_target_"], key)
    except InputError as error:
        return [str(error)]
    problems = _find_problems(key, node, target, rule or Rule(), {})
    positional = node.get("_args_") or []
    return problems + [problem for value in positional for problem in _find_value_problems(f"{key}._args_", value, Any)]


def _find_problems(
    key: str, settings: Mapping[str, Any], target: Callable[..., Any], rule: Rule, rules: Mapping[str, Rule]
) -> list[str]:
    """Check settings against the parameters of their target, and nodes among them against `rules` as well."""
    parameters, takes_others = parameters_of(target)
    own = {} if rule.own is None else parameters_of(rule.own)[0]
    hints = {**hints_of(target, parameters), **rule.ranges}
    if rule.own is not None:
        hints |= hints_of(rule.own, own)
    prefix = f"{key}." if key else ""
    problems = []
    for name, value in settings.items():
        place = f"{prefix}{name}"
        if name in _HYDRA_KEYS:
            continue
        if name in rule.reserved:
            problems.append(f"{place}: expected none, as the program sets it. Leave it out.")
        elif name in parameters or name in own:
            problems += _find_value_problems(place, value, hints.get(name, Any), rules.get(name))
        elif not takes_others:
            taken = [f"{prefix}{parameter}" for parameter in (*parameters, *own)]
            problems.append(
                f"{place}: no such setting{' of ' + target.__name__ if key else ''}.{nearest(place, taken)}"
            )
    positional = list(parameters)[: len(settings.get("_args_") or [])]
    settled = {*settings, *rule.given, *rule.reserved, *positional}
    if not settings.get("_partial_"):
        missing = [name for name, parameter in parameters.items() if is_required(parameter) and name not in settled]
        problems += [f"{prefix}{name}: expected a value, found none." for name in missing]
    return problems


def _find_value_problems(place: str, value: Any, hint: Any, rule: Rule | None = None) -> list[str]:
    if is_node(value):
        return find_node_problems(place, value, rule)
    if _holds_nodes(value):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        inner = _item_hint(hint)
        return [problem for name, item in items for problem in _find_value_problems(f"{place}.{name}", item, inner)]
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return _find_problems(place, value, hint, Rule(), {})
    return [] if hint is Any else list(_find_type_problems(place, value, hint))


def _item_hint(hint: Any) -> Any:
    """Return the type of the values of a dict type, also within a union; Any for other types."""
    choices = [hint, *get_args(hint)]
    return next((get_args(choice)[1] for choice in choices if get_origin(choice) is dict), Any)


def _holds_nodes(value: Any) -> bool:
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return any(is_node(item) or _holds_nodes(item) for item in items)


def _find_type_problems(place: str, value: Any, hint: Any) -> Iterator[str]:
    try:
        # In strict JSON mode a list is accepted for a tuple and a string for a path, but no string for a number.
        _type_adapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except (PydanticUserError, NameError):  # pydantic knows no such type
        return
    except InputError as error:  # raised by a type that validates itself
        yield str(error)
    except ValidationError as error:
        if all(detail["type"] in _INSTANCES for detail in error.errors()):
            return
        found: dict[str, dict[str, None]] = {}
        for detail in error.errors():
            if detail["type"] not in _INSTANCES:
                part, message = _path_in(value, detail["loc"]), detail["msg"].replace("Input should be", "").strip()
                if detail["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
                    message = "no such setting"
                found.setdefault(part, {})[message] = None
        for part, messages in found.items():
            shown = _value_at(value, part)
            yield f"{place}{part}={shown}: expected {' or '.join(messages)}, found {shown!r}."


def _type_adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # the type has a configuration of its own, as a dataclass has
        return TypeAdapter(hint)


def _path_in(value: Any, location: tuple[int | str, ...]) -> str:
    """Return the part of an error's location that exists in the value: a union adds the names of its branches."""
    path = ""
    for part in location:
        inside = part in value if isinstance(value, Mapping) else isinstance(value, list) and isinstance(part, int)
        if inside:
            value = value[part]
            path += f".{part}"
    return path


def _value_at(value: Any, path: str) -> Any:
    for part in path.split(".")[1:]:
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value
