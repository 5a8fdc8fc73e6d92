"""The class names of a data set come from its classes.txt, or else from the competition."""

from __future__ import annotations

from pathlib import Path

import pytest
from upath import UPath

from flowers.data.class_names import class_difference, kaggle_class_names, kaggle_train_counts, read_class_names
from flowers.errors import InputError


def test_the_competition_has_104_classes_and_12753_training_images() -> None:
    names, counts = kaggle_class_names(), kaggle_train_counts()
    assert (len(names), len(set(names)), len(counts)) == (104, 104, 104)
    assert (sum(counts), min(counts), max(counts)) == (12_753, 18, 782)
    assert (names[0], names[103]) == ("pink primrose", "wild rose")


def test_class_names_come_from_the_data_set_or_else_the_competition(tmp_path: Path) -> None:
    assert read_class_names(tmp_path) == kaggle_class_names()
    (tmp_path / "classes.txt").write_text("rose\niris\n")
    assert read_class_names(tmp_path) == ["rose", "iris"]


@pytest.mark.parametrize("text", ["rose\r\niris\r\n", "\ufeffrose\niris\n", "\ufeffrose\r\niris", "rose\riris\r"])
@pytest.mark.parametrize("remote", [False, True])
def test_class_names_do_not_depend_on_line_endings_or_storage(text: str, remote: bool, tmp_path: Path) -> None:
    root = UPath(f"memory://names-{tmp_path.name}") if remote else tmp_path
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_bytes(text.encode())
    assert read_class_names(root) == ["rose", "iris"]


def test_a_directory_instead_of_classes_txt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").mkdir()
    with pytest.raises(InputError, match=rf"^{tmp_path}/classes\.txt.*Is a directory"):
        read_class_names(tmp_path)


def test_a_class_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("rose\niris\nrose\n")
    with pytest.raises(InputError, match=r"classes\.txt.*'rose'"):
        read_class_names(tmp_path)


def test_class_difference_gives_the_count_or_the_first_differing_label() -> None:
    names = ["rose", "iris", "tulip"]
    assert class_difference(names, tuple(names)) == ""
    assert "2" in class_difference(names, names[:2])
    swapped = class_difference(names, ["rose", "tulip", "iris"])
    assert "label 1" in swapped and "'iris'" in swapped and "'tulip'" in swapped
