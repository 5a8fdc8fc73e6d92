"""scripts/rename.py makes a working project of a copy of the repository, and a refused name changes nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT, copy_repository

OLD = next((ROOT / "src").glob("*/__init__.py")).parent.name
NEW = "renamed_copy"


def run(copy: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a copy of the repository, whose package takes precedence over an installed one."""
    return subprocess.run(
        command,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": f"{copy / 'src'}:{copy}"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def rename(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(copy, sys.executable, "scripts/rename.py", *arguments)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the repository. Read only."""
    return copy_repository(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a renamed copy of the repository."""
    copy = copy_repository(tmp_path_factory.mktemp("renamed"))
    done = rename(copy, NEW)
    assert done.returncode == 0, done.stderr
    return copy


def test_only_the_new_package_exists(renamed: Path) -> None:
    assert [path.parent.name for path in (renamed / "src").glob("*/__init__.py")] == [NEW]
    named = rf"(from|import) {OLD}\b|src/{OLD}\b|\b{OLD.upper()}_[A-Z]|\.cache/{OLD}\b"
    assert run(renamed, "git", "grep", "-nIE", named).stdout == ""
    assert f"_target_: {OLD}." not in "".join(path.read_text() for path in (renamed / "configs").rglob("*.yaml"))


def test_the_project_and_its_commands_are_renamed(renamed: Path) -> None:
    settings = tomllib.loads((renamed / "pyproject.toml").read_text())
    assert settings["project"]["name"] == "renamed-copy"
    assert settings["project"]["scripts"]["renamed-copy-train"] == f"{NEW}.commands:train"
    assert all(name.startswith("renamed-copy-") for name in settings["project"]["scripts"])
    assert settings["tool"]["importlinter"]["root_packages"][0] == NEW
    assert f"project: {NEW}" in (renamed / "configs" / "logger" / "wandb.yaml").read_text()


def test_the_names_of_the_data_stay(renamed: Path, original: Path) -> None:
    resources = Path("data") / "resources" / "flowers104_classes.txt"
    assert (renamed / "src" / NEW / resources).read_bytes() == (original / "src" / OLD / resources).read_bytes()
    assert "class FlowersDataModule" in (renamed / "src" / NEW / "data" / "datamodule.py").read_text()
    assert "flower-classification-with-tpus" in (renamed / "configs" / "data" / "kaggle.yaml").read_text()
    golden = run(renamed, "git", "status", "--porcelain", "tests/golden")
    assert golden.stdout == ""


@pytest.mark.parametrize(
    "check", ["ruff check --no-cache .", "ruff format --no-cache --check .", "lint-imports --no-cache"]
)
def test_a_renamed_copy_lints(renamed: Path, check: str) -> None:
    name, *arguments = check.split()
    done = run(renamed, str(Path(sys.executable).with_name(name)), *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_renamed_copy_trains(renamed: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    directory = f"hydra.run.dir={tmp_path / 'run'}"
    done = run(renamed, sys.executable, "src/train.py", *tiny_settings, "debug=fdr", directory)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("run/**/config.yaml"))


def test_a_renamed_copy_passes_its_tests(renamed: Path) -> None:
    tests = [
        "tests/unit/data/test_folds.py",
        "tests/unit/models/test_losses.py",
        "tests/unit/ensembling/test_methods.py",
    ]
    done = run(renamed, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert done.returncode == 0, done.stdout
    done = run(renamed, sys.executable, "-c", f"import sys, {NEW}.cli; sys.exit('{OLD}' in sys.modules)")
    assert done.returncode == 0


def test_a_renamed_copy_can_be_renamed_again(renamed: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(renamed, tmp_path / "copy")
    assert rename(copy, "another", "--force").returncode == 0
    settings = tomllib.loads((copy / "pyproject.toml").read_text())
    assert settings["project"]["scripts"]["another-train"] == "another.commands:train"
    assert run(copy, "git", "grep", "-nIE", rf"\b{NEW}\b", "src", "configs").stdout == ""


@pytest.mark.parametrize(
    "name", ["My-Project", "2nd", "class", "json", "torch", "sklearn", "train", "data", "benchmarks", OLD, ""]
)
def test_a_bad_name_changes_nothing(original: Path, name: str) -> None:
    done = rename(original, name)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {name}: ")
    assert run(original, "git", "status", "--porcelain").stdout == ""
    assert (original / "src" / OLD).is_dir()


def test_uncommitted_changes_are_refused_unless_forced(original: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(original, tmp_path / "copy")
    (copy / "README.md").write_text(f"# {OLD.replace('_', '-')}\n")
    assert rename(copy, NEW).returncode == 1
    assert (copy / "src" / OLD).is_dir()
    assert rename(copy, NEW, "--force").returncode == 0
    assert (copy / "README.md").read_text() == "# renamed-copy\n"
