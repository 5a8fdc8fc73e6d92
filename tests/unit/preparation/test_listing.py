"""Listing reports folders that cannot be read, and follows links to each folder once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from upath import UPath

from flowers.errors import InputError
from flowers.preparation.source import list_source
from tests.unit.preparation.test_source import write_files


@pytest.mark.parametrize("folder", [".", "b", "b/deep/er"])
def test_an_unreadable_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    write_files(tmp_path, "a/1.jpg", "b/1.jpg", "b/deep/er/2.jpg", ".hidden/1.jpg")
    locked, real = tmp_path / folder, os.scandir

    def scandir(path: Any) -> Any:  # as chmod does not stop the superuser
        if Path(path) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=f"^{locked}: .*Permission denied"):
        list_source(str(tmp_path))
    locked = tmp_path / ".hidden"
    source = list_source(str(tmp_path))
    assert [photograph.path for photograph in source.photographs] == ["a/1.jpg", "b/1.jpg", "b/deep/er/2.jpg"]
    assert source.ignored == {"hidden": 1}


@pytest.mark.parametrize("locked", ["", "b/1.jpg", "list.csv"])
def test_an_inaccessible_path_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locked: str) -> None:
    write_files(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "list.csv").write_text("path,label\na/1.jpg,a\nb/1.jpg,b\n")
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if not isinstance(path, int) and Path(path) == tmp_path / locked:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)
    sources = [tmp_path, tmp_path / "list.csv"] if locked == "b/1.jpg" else [tmp_path / locked]
    for source in sources:
        with pytest.raises(InputError, match=f"^{tmp_path / locked}: .*Permission denied"):
            list_source(str(source))


@pytest.mark.parametrize("folder", ["b", "b/deep/er"])
def test_an_unreadable_remote_folder_is_reported(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    source = UPath("memory://test-listing/photographs")
    for path in ("a/1.jpg", "b/1.jpg", "b/deep/er/2.jpg"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(path.encode())
    flat = list_source(str(source))
    # Like a file system that cannot list whole trees itself, such as SFTP.
    monkeypatch.setattr(MemoryFileSystem, "find", AbstractFileSystem.find)
    assert list_source(str(source)) == flat
    real = MemoryFileSystem.ls

    def ls(fs: MemoryFileSystem, path: str, **options: Any) -> Any:
        if path.endswith(folder):
            raise PermissionError("Permission denied")
        return real(fs, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    with pytest.raises(InputError, match=f"^/test-listing/photographs/{folder}: .*Permission denied"):
        list_source(str(source))


def test_class_folders_that_link_to_each_other_are_refused(tmp_path: Path) -> None:
    write_files(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")
    for one, other in ("ab", "bc", "ca"):
        (tmp_path / one / f"to {other}").symlink_to(tmp_path / other)
    with pytest.raises(InputError, match=rf"^{tmp_path}/a/to b: .* {tmp_path}/b\b"):
        list_source(str(tmp_path))


def test_a_class_folder_that_links_to_another_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, "elsewhere/1.jpg", "photographs/a/2.jpg")
    for name in ("b", "c"):
        (tmp_path / "photographs" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="photographs/c: "):
        list_source(str(tmp_path / "photographs"))


def test_linked_files_of_a_class_are_read_once(tmp_path: Path) -> None:
    write_files(tmp_path / "photographs", "a/1.jpg", "a/sub/2.jpg", "a/sub/er/3.jpg", "b/4.jpg", ".store/5.jpg")
    write_files(tmp_path / "elsewhere", "6.jpg", "sub/7.jpg")
    a = tmp_path / "photographs" / "a"
    for name, target in {
        "0 to sub": a / "sub",
        "sub/er/back": a / "sub",
        "0.jpg": a / "1.jpg",
        "itself.jpg": a / "itself.jpg",
        "out": tmp_path / "elsewhere",
        "out again": tmp_path / "elsewhere" / "sub",
        "above": tmp_path,
        "store": tmp_path / "photographs" / ".store",
    }.items():
        (a / name).symlink_to(target)
    (tmp_path / "elsewhere" / "sub" / "up").symlink_to(tmp_path / "elsewhere")
    source = list_source(str(tmp_path / "photographs"))
    assert [photograph.path for photograph in source.photographs] == [
        "a/1.jpg",
        "a/itself.jpg",
        "a/out/6.jpg",
        "a/out/sub/7.jpg",
        "a/store/5.jpg",
        "a/sub/2.jpg",
        "a/sub/er/3.jpg",
        "b/4.jpg",
    ]
    assert source.ignored["linked a second time"] == 3  # 0 to sub, out again, 0.jpg
