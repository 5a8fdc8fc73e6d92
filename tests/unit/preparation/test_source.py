"""Photographs are listed with their classes, other files are counted, and unusable sources are refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from upath import UPath

from flowers.errors import InputError
from flowers.preparation.source import Photograph, list_source


def write_files(directory: Path, *paths: str) -> Path:
    for path in paths:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(path)
    return directory


def test_class_folders_are_listed_at_any_depth_in_order_of_path(tmp_path: Path) -> None:
    write_files(tmp_path, "b/2.PNG", "b/1.jpg", "b/2020/may/3.jpeg", "a/1.webp")
    source = list_source(str(tmp_path))
    assert source.photographs == [
        Photograph("a/1.webp", "a", 8),
        Photograph("b/1.jpg", "b", 7),
        Photograph("b/2.PNG", "b", 7),
        Photograph("b/2020/may/3.jpeg", "b", 17),
    ]
    assert not source.ignored


def test_files_that_are_no_photographs_are_counted(tmp_path: Path) -> None:
    write_files(
        tmp_path, "a/1.jpg", "a/.1.jpg", ".git/x.jpg", "a/notes.txt", "a/2.heic", "a/3.heic", "README", "0.jpg", "a/x"
    )
    source = list_source(str(tmp_path))
    assert [photograph.path for photograph in source.photographs] == ["a/1.jpg"]
    assert source.ignored == {"hidden": 2, ".txt": 1, ".heic": 2, "outside the class folders": 2, "without a suffix": 1}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write_files(tmp_path / "photographs", "a/1.jpg")
    write_files(tmp_path / "elsewhere", "2.jpg", "3.jpg")
    (tmp_path / "photographs" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photographs" / "a" / "4.jpg").symlink_to(tmp_path / "elsewhere" / "2.jpg")
    (tmp_path / "photographs" / "a" / "up").symlink_to(tmp_path / "photographs")
    (tmp_path / "photographs" / "a" / "broken.jpg").symlink_to("nowhere")
    found = {photograph.path: photograph.bytes for photograph in list_source(str(tmp_path / "photographs")).photographs}
    assert found == {"a/1.jpg": 7, "a/4.jpg": 5, "a/broken.jpg": 0, "b/2.jpg": 5, "b/3.jpg": 5}


def test_a_url_is_listed_like_a_directory(tmp_path: Path) -> None:
    paths = ("b/1.jpg", "b/deep/2.png", "a/1.jpg", "a/.hidden.jpg", "top.txt")
    write_files(tmp_path, *paths)
    remote = UPath("memory://test-source/photographs")
    for path in paths:
        (remote / path).parent.mkdir(parents=True, exist_ok=True)
        (remote / path).write_bytes((tmp_path / path).read_bytes())
    there, here = list_source(str(remote)), list_source(str(tmp_path))
    assert there.photographs == here.photographs
    assert there.ignored == here.ignored


def test_the_paths_in_a_csv_are_relative_to_it(tmp_path: Path) -> None:
    write_files(tmp_path, "images/1.jpg", "images/2.jpg")
    (tmp_path / "list.csv").write_bytes(
        '\ufefflabel,path,who\r\n"rose, red",./images/2.jpg,me\r\ndaisy,images/1.jpg,\r\n'.encode()
    )
    source = list_source(str(tmp_path / "list.csv"))
    assert source.photographs == [Photograph("images/1.jpg", "daisy", 12), Photograph("images/2.jpg", "rose, red", 12)]
    assert source.directory == UPath(tmp_path)


def test_spaces_around_the_fields_of_a_csv_are_ignored(tmp_path: Path) -> None:
    write_files(tmp_path, "1.jpg", "2 b.jpg", "3.jpg")
    (tmp_path / "list.csv").write_text("path , label\n1.jpg,rose\n 2 b.jpg , rose\n3.jpg,wild rose \n")
    source = list_source(str(tmp_path / "list.csv"))
    assert [(p.path, p.label) for p in source.photographs] == [
        ("1.jpg", "rose"),
        ("2 b.jpg", "rose"),
        ("3.jpg", "wild rose"),
    ]


FOLDERS = {
    "no classes": ((), r"rose/1\.jpg.*found no folder"),
    "no folders": (("1.jpg",), r"found no folder.*1 outside the class folders"),
    "an empty class": (("a/1.jpg", "b/1.heic"), r"found none in b\b.*1 \.heic"),
    "splits": (("train/a/1.jpg", "val/a/1.jpg"), r"splits train, val"),
    "a class of two lines": (("a\nb/1.jpg",), r"'a\\nb'"),
    "a file of two lines": (("a/Icon\r.jpg",), r"'a/Icon\\r\.jpg'"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_unusable_folders_are_refused(tmp_path: Path, case: str) -> None:
    paths, message = FOLDERS[case]
    write_files(tmp_path, *paths)
    with pytest.raises(InputError) as raised:
        list_source(str(tmp_path))
    assert str(raised.value).startswith(f"{tmp_path}: ")
    assert re.search(message, str(raised.value))


TABLES = {
    "a column missing": ("path,class\n1.jpg,a\n", r"path,label.*found path,class"),
    "semicolons": ("path;label\n1.jpg;a\n", r"found path;label"),
    "empty": ("", r"found none"),
    "only a header": ("path,label\n", r"after the header, found none"),
    "no label": ("path,label\n1.jpg,a\n2.jpg,\n", r"line 3: .*label"),
    "a label of spaces": ("path,label\n1.jpg,a\n2.jpg,  \n", r"line 3: .*label"),
    "a short line": ("path,label\n1.jpg\n", r"line 2: .*label"),
    "listed twice": ("path,label\n1.jpg,a\n./1.jpg,b\n", r"line 3: 1\.jpg .*line 2"),
    "not there": ("path,label\n1.jpg,a\nx/9.jpg,a\n8.jpg,b\n", r"\b2 of 3 listed files"),
    "a directory": ("path,label\nd,a\n", r"line 2: d"),
    "a label of two lines": ('path,label\n1.jpg,"a\nb"\n', r"'a\\nb'"),
}


@pytest.mark.parametrize("case", TABLES)
def test_invalid_tables_are_refused(tmp_path: Path, case: str) -> None:
    text, message = TABLES[case]
    write_files(tmp_path, "1.jpg", "2.jpg", "d/1.jpg")
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(InputError) as raised:
        list_source(str(tmp_path / "list.csv"))
    assert str(raised.value).startswith(f"{tmp_path / 'list.csv'}: ")
    assert re.search(message, str(raised.value))
    if case == "not there":
        assert "line 3: x/9.jpg\n  line 4: 8.jpg\n" in str(raised.value)


def test_text_and_names_that_are_not_utf_8_are_refused(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes("path,label\n1.jpg,Ähre\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"list\.csv: .*UTF-8"):
        list_source(str(tmp_path / "list.csv"))
    (tmp_path / "photographs" / "a").mkdir(parents=True)
    (tmp_path / "photographs" / "a" / "\udcc4.jpg").touch()
    with pytest.raises(InputError, match=r"UTF-8.*b'a/\\xc4\.jpg'"):
        list_source(str(tmp_path / "photographs"))


@pytest.mark.parametrize("source", ["nowhere", "nowhere.csv", "memory://nowhere", "ftpp://host/photographs"])
def test_a_missing_source_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"^(source=)?{source}: (no such file|.*fsspec)"):
        list_source(source)
