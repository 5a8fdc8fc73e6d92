"""scripts/install.py installs with uv, or with pip if uv is not available, and reports errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORD = """#!/bin/sh
echo "{name} $*" >> "{log}"
{then}
exit {status}
"""


def write_command(path: Path, log: Path, status: int = 0, then: str = "") -> None:
    """Write a command that only records its calls."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECORD.format(name=path.name, log=log, status=status, then=then))
    path.chmod(0o755)


def install(root: Path, *extra: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script on the environment `root`/env, and return its result and the recorded calls."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "install.py"), str(root / "env"), *extra],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{root / 'path'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    log = root / "log"
    return done, log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(("extra", "package"), [((), "."), (("dev",), ".[dev]")])
def test_uv_on_path_installs_the_requested_extra(tmp_path: Path, extra: tuple[str, ...], package: str) -> None:
    write_command(tmp_path / "env" / "bin" / "python", tmp_path / "log")
    write_command(tmp_path / "path" / "uv", tmp_path / "log")
    done, called = install(tmp_path, *extra)
    assert done.returncode == 0
    assert called == [
        f"uv pip install --python {tmp_path}/env/bin/python --constraint constraints.txt --editable {package}"
    ]
    assert len(done.stdout.splitlines()) == 1


def test_uv_is_installed_if_it_is_missing(tmp_path: Path) -> None:
    uv = tmp_path / "env" / "bin" / "uv"
    write_command(tmp_path / "uv", tmp_path / "log")
    write_command(tmp_path / "env" / "bin" / "python", tmp_path / "log", then=f"cp {tmp_path / 'uv'} {uv}")
    done, called = install(tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in called] == ["python", "uv"]
    assert "--constraint constraints.txt uv" in called[0]
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("uv", ["missing", "failing"])
def test_pip_is_used_if_uv_fails(tmp_path: Path, uv: str) -> None:
    write_command(tmp_path / "env" / "bin" / "python", tmp_path / "log")
    if uv == "failing":
        write_command(tmp_path / "path" / "uv", tmp_path / "log", status=2)
    done, called = install(tmp_path)
    assert done.returncode == 0
    assert called[-1].startswith("python -m pip") and called[-1].endswith("--constraint constraints.txt --editable .")
    assert len(called) == 2


def test_a_failed_installation_is_an_error(tmp_path: Path) -> None:
    write_command(tmp_path / "env" / "bin" / "python", tmp_path / "log", status=1)
    done, _ = install(tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: .: ")


def test_training_needs_none_of_the_test_tools() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {line.partition(">")[0].lower() for line in project["dependencies"]}
    assert not needed & {"tensorflow-cpu", "apache-beam", "moto[s3,server]", "torch_xla", "pytest", "ruff", "mypy"}
