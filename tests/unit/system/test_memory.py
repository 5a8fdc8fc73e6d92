"""The limit and the available memory are found in a container as on a machine, and freed memory is kept on request."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowers.system import memory
from flowers.system.memory import available_memory, keeping_freed_memory, memory_limit
from tests.helpers.page_faults import BYTES, PAGES, allocate

GIB = 2**30


@pytest.fixture(autouse=True)
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_physical", lambda: 64 * GIB)
    monkeypatch.setattr(memory, "_free", lambda: 60 * GIB)


def write_group(directory: Path, version: int, limit: object, used: int, inactive: int, active: int = 0) -> None:
    names = {1: ("limit_in_bytes", "usage_in_bytes", "total_"), 2: ("max", "current", "")}
    limit_name, use_name, total = names[version]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"memory.{limit_name}").write_text(f"{limit}\n")
    (directory / f"memory.{use_name}").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(
        f"anon 5\n{total}inactive_file {inactive}\n{total}active_file {active}\n{total}active_anon 7\n"
    )


@pytest.mark.parametrize(
    ("version", "top", "own"),
    [
        (1, "memory", "4:memory:/docker/a\n0::/\n"),
        (1, "memory", "7:cpu,memory:/docker/a\n"),
        (2, ".", "0::/docker/a\n"),
    ],
)
@pytest.mark.parametrize("limited", ["docker/a", "docker", "."])  # the group itself, its parent, or the root
def test_the_limit_of_a_container_applies(
    version: int, top: str, own: str, limited: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_own_groups", lambda: own)
    write_group(tmp_path / top / limited, version, 8 * GIB, 3 * GIB, GIB)
    assert memory_limit(tmp_path) == 8 * GIB
    assert available_memory(tmp_path) == 6 * GIB


@pytest.mark.parametrize(("version", "top", "own"), [(1, "memory", "4:memory:/\n"), (2, ".", "0::/\n")])
def test_all_cached_files_count_as_available(
    version: int, top: str, own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_own_groups", lambda: own)
    write_group(tmp_path / top, version, 16 * GIB, 15 * GIB, inactive=GIB, active=10 * GIB)
    assert available_memory(tmp_path) == 12 * GIB


@pytest.mark.parametrize(("version", "top", "limit"), [(1, "memory", 9223372036854771712), (2, ".", "max")])
def test_without_a_limit_the_memory_of_the_machine_applies(
    version: int, top: str, limit: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_own_groups", lambda: "0::/\n4:memory:/\n")
    write_group(tmp_path / top, version, limit, 3 * GIB, GIB)
    assert memory_limit(tmp_path) == 64 * GIB
    assert available_memory(tmp_path) == 60 * GIB


def test_without_control_groups_the_memory_of_the_machine_applies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_own_groups", lambda: "")
    assert (memory_limit(tmp_path), available_memory(tmp_path)) == (64 * GIB, 60 * GIB)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this C library's malloc has no settings")
def test_freed_memory_is_kept_within_the_block_and_returned_after_it() -> None:
    with keeping_freed_memory():
        allocate(30)  # until small objects no longer take a part of what is free
        assert allocate(20) < 10 * PAGES
        held = resident_bytes()
    assert held - resident_bytes() > BYTES // 2


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=trimmed.append))
    with keeping_freed_memory():
        assert not trimmed
    assert trimmed == [0]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
