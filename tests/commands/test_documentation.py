"""Every command that a page, a configuration or a docstring shows is accepted by its configuration."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException

from tests.helpers.configuration import COMMANDS, check

ROOT = Path(__file__).parents[2]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("data/*.md"),
    *ROOT.glob("configs/**/*.yaml"),
    *ROOT.glob("examples/**/*.yaml"),
    *ROOT.glob("src/*.py"),
    *ROOT.glob("benchmarks/*/__main__.py"),
    *ROOT.glob("notebooks/*.ipynb"),
]
COMMAND = r"python (?:src/(\w+)\.py|-m benchmarks\.(step|loader|recipes)\b)([^`\n]*)"
PLACEHOLDERS = {"=SIZE": "=224", "=BATCH": "=32", "=MODEL": "=resnet50", "${RUNS%,}": "DIR", "{RUN}": "DIR"}
# The reader writes these files: the model in a notebook, which tests/commands/test_notebooks.py trains, and the others
# as docs/your-own.md and docs/data-howto.md show.
PLACEHOLDERS |= {
    "=small_net": "=resnet50",
    "=my_net": "=resnet50",
    "=my_data": "=garden",
    "augment=mine": "augment=flip",
    "experiment=mine": "experiment=example",
}


def find_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the configuration's name and the overrides of each command. Of a multirun's lists, take the first value."""
    text = re.sub(r"\\\n\s*#?\s*", " ", text)
    for script, benchmark, rest in re.findall(COMMAND, text):
        arguments = re.split(r"\s#|\"\"\"|\.\"|\\n", rest)[0]
        for placeholder, value in PLACEHOLDERS.items():
            arguments = arguments.replace(placeholder, value)
        words = list(split_words(arguments.rstrip("'") if arguments.count("'") % 2 else arguments))
        name = script or f"benchmark_{benchmark}"
        if script == "prepare":
            if not words or f"{script}_{words[0]}" not in COMMANDS:
                continue  # `step|loader`
            name = f"{script}_{words.pop(0)}"
        overrides = []
        if words[:1] == ["--config-dir"]:
            overrides.append(f"hydra.searchpath=[file://{ROOT / words[1]}]")
            words = words[2:]
        for word in words:
            if "=" not in word and not word.startswith("--"):
                break  # the sentence continues
            if word[0] not in "-[":
                override = word.rstrip(":;.,")
                overrides.append(first_value(override) if "--multirun" in words else override)
            if word[-1] in ":;.,":
                break
        yield name, overrides


def split_words(text: str) -> Iterator[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    with contextlib.suppress(ValueError):  # an apostrophe in the sentence that follows
        yield from lexer


def first_value(override: str) -> str:
    return override if any(bracket in override for bracket in "[{(") else override.partition(",")[0]


SHOWN: dict[tuple[str, ...], Path] = {}  # each command once, with one of the pages that show it
for page in PAGES:
    for command, its_overrides in find_commands(page.read_text()):
        SHOWN.setdefault((command, *its_overrides), page.relative_to(ROOT))


def test_commands_are_found() -> None:
    assert len(SHOWN) > 60
    assert {name for name, *_ in SHOWN} == set(COMMANDS)
    assert list(find_commands("    python src/train.py --multirun a=1,2 \\\n        b=[1,2]  # c=3")) == [
        ("train", ["a=1", "b=[1,2]"])
    ]


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: f"{SHOWN[shown]} {' '.join(shown)}")
def test_a_shown_command_is_accepted(shown: tuple[str, ...]) -> None:
    name, *overrides = shown
    shown_for_its_message = "trainer.max_epoch=3" in overrides
    with pytest.raises(ConfigCompositionException) if shown_for_its_message else contextlib.nullcontext():
        check(name, *overrides)
