"""The search space: which overrides of the configuration are tried, and with which values.

A key is what stands before the `=` on the command line: a setting or a group. Its values are either a list, `{choices:
[light, medium]}`, or a range, `{low: 1e-4, high: 3e-3, log: true}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from flowers.errors import nearest
from flowers.settings import raise_problems

if TYPE_CHECKING:
    from optuna import Trial

Number: TypeAlias = int | float
Value: TypeAlias = int | float | str
"""A sampled value. A choice is the text that stands after the `=`, because it may be a list or null."""


@dataclass(frozen=True, slots=True)
class Choices:
    """A list of values, each as the text of an override."""

    texts: tuple[str, ...]

    def edges(self) -> list[Value]:
        """Return the values that must be checked for all to be valid: here all."""
        return list(self.texts)

    def sample(self, trial: Trial, key: str) -> Value:
        """Return the trial's value, sampled unless the trial already has one."""
        chosen: str = trial.suggest_categorical(key, self.texts)
        return chosen


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `low` to `high`, both included: integers if `low`, `high` and `step` are integers.

    log: sample the logarithm uniformly.
    step: the distance of neighbouring values, counted from `low`; None for any value.
    """

    low: Number
    high: Number
    log: bool = False
    step: Number | None = None

    @property
    def is_integer(self) -> bool:
        """Return whether all values are integers."""
        return all(isinstance(number, int) for number in (self.low, self.high, self.step or 0))

    def edges(self) -> list[Value]:
        """Return the values that must be checked for all to be valid: both ends."""
        return [self.low, self.high]

    def sample(self, trial: Trial, key: str) -> Value:
        """Return the trial's value, sampled unless the trial already has one."""
        if self.is_integer:
            integer: int = trial.suggest_int(key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
            return integer
        number: float = trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)
        return number


Space: TypeAlias = dict[str, Choices | Range]


def parse_space(space: Mapping[str, Mapping[str, Any] | None]) -> Space:
    """Return the search space that a configuration describes. Keys with null are left out.

    Raises:
        InputError: an entry is neither a list of choices nor a range; the message has a line for each problem.
    """
    given = {key: entry for key, entry in space.items() if entry is not None}
    problems = [f"space.{key}{problem}" for key, entry in given.items() for problem in _find_problems(entry)]
    if not given:
        problems = ["space: expected at least one setting to search, found none. Add one: see configs/hparams_search."]
    raise_problems(problems)
    return {key: _parse_entry(entry) for key, entry in given.items()}


def write_value(value: object) -> str:
    """Return a value as the text that stands after the `=` of an override."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_overrides(values: Mapping[str, Value]) -> list[str]:
    """Return the overrides that set sampled values."""
    return [f"{key}={write_value(value)}" for key, value in values.items()]


def _parse_entry(entry: Mapping[str, Any]) -> Choices | Range:
    if "choices" in entry:
        return Choices(tuple(write_value(choice) for choice in entry["choices"]))
    return Range(entry["low"], entry["high"], entry.get("log", False), entry.get("step"))


def _find_problems(entry: Mapping[str, Any]) -> list[str]:
    known = ("choices",) if "choices" in entry else ("low", "high", "log", "step")
    if unknown := [name for name in entry if name not in known]:
        return [f".{name}: no such setting beside {known[0]}.{nearest(name, known)}" for name in unknown]
    return _find_choice_problems(entry["choices"]) if "choices" in entry else _find_range_problems(entry)


def _find_choice_problems(choices: object) -> list[str]:
    if not isinstance(choices, list) or not choices:
        return [f".choices={choices}: expected a list of values, found {choices!r}."]
    nested = [choice for choice in choices if isinstance(choice, list | dict)]
    if nested:
        return [f".choices: expected values, found {nested[0]}. Write it as on the command line: '[128,160]'."]
    texts = [write_value(choice) for choice in choices]
    return [".choices: expected each value once, found one twice. Leave it out."] if len({*texts}) < len(texts) else []


def _find_range_problems(entry: Mapping[str, Any]) -> list[str]:
    numbers = {name: entry.get(name) for name in ("low", "high", *(["step"] if entry.get("step") is not None else []))}
    for name, number in numbers.items():
        if not isinstance(number, int | float) or isinstance(number, bool):
            return [f".{name}: expected a number, found {number!r}. Set low and high, or choices."]
    if not isinstance(entry.get("log", False), bool):
        return [f".log={entry['log']}: expected true or false, found {entry['log']!r}."]
    low, high, step = entry["low"], entry["high"], entry.get("step")
    if not low < high:
        return [f".low={low}: expected a number below high={high}, found {low}."]
    if entry.get("log") and low <= 0:
        return [f".low={low}: expected a positive number with log: true, found {low}."]
    if entry.get("log") and step is not None:
        return [f".step={step}: expected none with log: true, found {step}. Leave one of them out."]
    if step is not None and not 0 < step <= high - low:
        return [f".step={step}: expected a positive number up to high - low, found {step}."]
    return []
