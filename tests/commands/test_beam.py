"""The Beam pipeline is tested on `FnApiRunner`, which executes it in this process.

`DirectRunner` would first look for a program called Prism and download it. Otherwise it is `FnApiRunner`.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
from upath import UPath

from flowers.errors import BadRecord, InputError
from flowers.preparation.beam import run_on_beam
from flowers.preparation.folder import prepare_folder
from tests.helpers.photographs import SETTINGS, read_files


def test_reading_and_writing_urls_gives_the_same_bytes(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    source, output = UPath("memory://test-beam/photographs"), UPath("memory://test-beam/output")
    for path in photographs.rglob("*.jpg"):
        there = source / path.relative_to(photographs).as_posix()
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
    prepare_folder(str(source), str(output), SETTINGS, partial(run_on_beam, "FnApiRunner", []))
    written = {path.removeprefix(f"{output.path}/"): output.fs.cat(path) for path in output.fs.find(output.path)}
    assert written == read_files(prepared)


def refuse(task: int) -> int:
    raise (InputError if task else BadRecord)(f"shard {task}: expected a record, found none. Write it again.")


@pytest.mark.parametrize("task", [0, 1])
def test_the_error_of_a_task_is_raised_unchanged(task: int) -> None:
    with pytest.raises(InputError) as raised:
        run_on_beam("FnApiRunner", [], refuse, [task], "Refusing", 1)
    assert str(raised.value) == f"shard {task}: expected a record, found none. Write it again."


def test_other_exceptions_are_not_converted() -> None:
    with pytest.raises(Exception, match="modulo by zero") as raised:
        run_on_beam("FnApiRunner", [], lambda task: 1 // task, [0], "Dividing", 1)
    assert not isinstance(raised.value, InputError)


def test_an_unknown_runner_is_refused() -> None:
    with pytest.raises(InputError, match="runner=Nonsense: "):
        run_on_beam("Nonsense", [], refuse, [1], "Refusing", 1)


def test_a_missing_beam_is_reported_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[beam\]'"):
        run_on_beam("DirectRunner", [], refuse, [1], "Refusing", 1)
