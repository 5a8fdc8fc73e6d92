"""The commands of the installed package work from any directory, with the installed configurations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT, copy_repository

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]


@pytest.fixture(scope="module", params=["wheel", "editable"])
def commands(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the commands' directory of an environment with the package, and this environment's other packages."""
    root = tmp_path_factory.mktemp(request.param)
    copy = copy_repository(root / "copy")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "env")], check=True)
    python = root / "env" / "bin" / "python"
    packages = next((root / "env" / "lib").glob("python*/site-packages"))
    (packages / "all_else.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--ignore-installed"]
    package = ["--editable", str(copy)] if request.param == "editable" else [str(copy)]
    done = run(*install, "--no-deps", "--no-build-isolation", *package, cwd=root)
    assert done.returncode == 0, done.stderr
    if request.param == "wheel":
        shutil.rmtree(copy)
    return python.parent


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    "name", ["train", "evaluate", "predict", "choose", "ensemble", "cross-validate", "search", "sync", "dashboard"]
)
def test_a_command_shows_its_settings_from_any_directory(commands: Path, name: str, tmp_path: Path) -> None:
    done = run(commands / f"{PROJECT}-{name}", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "== Groups and their choices ==" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_subcommands_work_from_any_directory(commands: Path, tmp_path: Path) -> None:
    done = run(commands / f"{PROJECT}-prepare", "verify", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "decode" in done.stdout


def test_training_works_from_any_directory(commands: Path, tiny_settings: list[str], tmp_path: Path) -> None:
    done = run(commands / f"{PROJECT}-train", *tiny_settings, "debug=fdr", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("logs/**/config.yaml"))


def test_all_configurations_are_installed(commands: Path, tmp_path: Path) -> None:
    done = run(commands / "python", "-c", "from flowers.cli import CONFIGS; print(CONFIGS)", cwd=tmp_path)
    installed = Path(done.stdout.strip())
    assert installed.is_relative_to(commands.parents[1])
    files = {path.relative_to(installed): path.read_bytes() for path in installed.rglob("*.yaml")}
    ours = ROOT / "configs"
    assert files == {path.relative_to(ours): path.read_bytes() for path in ours.rglob("*.yaml")}
