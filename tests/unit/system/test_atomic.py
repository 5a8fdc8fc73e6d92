"""Atomic writes are complete or absent, reach the disk before they get their name, and allow several writers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from flowers.system import atomic
from flowers.system.atomic import atomic_path, final_name, open_atomic, remove_parts, write_atomic


@pytest.fixture(params=["", "memory://test-atomic"])
def directory(tmp_path: Path, request: pytest.FixtureRequest) -> UPath:
    place = UPath(f"{request.param}{tmp_path}/files")
    place.mkdir(parents=True)
    return place


def list_names(directory: UPath) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_gets_its_name_when_it_is_complete(directory: UPath) -> None:
    with open_atomic(directory / "a.csv") as file:
        file.write(b"1,2\n")
        assert list_names(directory) != ["a.csv"]
    assert list_names(directory) == ["a.csv"]
    assert (directory / "a.csv").read_bytes() == b"1,2\n"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_earlier_file_and_nothing_else(directory: UPath, error: type[BaseException]) -> None:
    (directory / "a.csv").write_bytes(b"earlier")
    with pytest.raises(error), open_atomic(directory / "a.csv") as file:
        file.write(b"half")
        raise error
    assert list_names(directory) == ["a.csv"]
    assert (directory / "a.csv").read_bytes() == b"earlier"


def test_two_writers_of_one_file_do_not_mix(directory: UPath) -> None:
    with open_atomic(directory / "a.csv") as one:
        one.write(b"one" * 1000)
        with open_atomic(directory / "a.csv") as other:
            other.write(b"two")
        assert (directory / "a.csv").read_bytes() == b"two"
    assert (directory / "a.csv").read_bytes() == b"one" * 1000
    assert list_names(directory) == ["a.csv"]


def test_a_file_that_lost_bytes_is_refused(directory: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    real = type(directory).stat

    def shorter(path: Any, **options: Any) -> Any:
        found = real(path, **options)
        if not path.name.endswith(".part"):
            return found
        return type("Status", (), {"st_size": found.st_size - 1, "st_mode": found.st_mode})()

    monkeypatch.setattr(type(directory), "stat", shorter)
    with pytest.raises(OSError, match=r"\b4 bytes.*found 3\b"), open_atomic(directory / "a.csv") as file:
        file.write(b"half")
    monkeypatch.undo()
    assert list_names(directory) == []


def record_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that receives the operations on the disk from now on, in order."""
    found: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        found.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().suffix or 'directory'}")
        real_sync(descriptor)

    def replace(path: Path, target: Path) -> Path:
        found.append("replace")
        return real_replace(path, target)

    monkeypatch.setattr(atomic.os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    return found


def write_by_path(path: Path) -> None:
    with atomic_path(path) as part:
        part.write_bytes(b"x")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds the files in Linux's /proc")
@pytest.mark.parametrize("write", [lambda path: write_atomic(path, "x"), write_by_path])
def test_a_file_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    found = record_calls(monkeypatch)
    write(tmp_path / "a.csv")
    assert found == ["sync .part", "replace", "sync directory"]


def test_a_directory_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    with pytest.raises(ValueError), atomic_path(tmp_path / "set") as part:
        part.mkdir()
        (part / "shard").write_bytes(b"half")
        raise ValueError
    assert list(tmp_path.iterdir()) == []
    with atomic_path(tmp_path / "set") as part:
        part.mkdir()
        (part / "shard").write_bytes(b"whole")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["set", "set/shard"]


def test_a_writer_that_wrote_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.csv"):
        pass


def test_the_files_of_killed_writers_are_removed_by_name(tmp_path: Path) -> None:
    token = "0123456789abcdef"
    left = [f"a.csv.{token}.part", "a.csv.part", "a.csv.4711.part"]
    others = ["a.csv", f"b.csv.{token}.part", "a.part"]
    for name in left + others:
        (tmp_path / name).touch()
    (tmp_path / f"a.csv.{token[::-1]}.part").mkdir()
    remove_parts(tmp_path / "a.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)
    assert {final_name(name) for name in left} == {"a.csv"}
    remove_parts(tmp_path / "nowhere" / "a.csv")
