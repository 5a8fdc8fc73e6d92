"""Install the package with the versions in constraints.txt: python scripts/install.py DIRECTORY [EXTRA].

DIRECTORY is the virtual environment, which is created if it is missing. uv installs several times faster than pip.
A uv on PATH is used; otherwise its wheel is installed into the environment. If uv fails, pip takes over: it may be
configured for a package index that uv does not know.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
PINNED = ("--constraint", "constraints.txt")


def main(directory: str, extra: str = "") -> None:
    """Create the environment if needed, and install the package with one extra."""
    if sys.version_info < OLDEST:
        found = sys.version.split()[0]
        sys.exit(f"error: expected Python 3.11 or later, found {found}. Set it: make train PYTHON=python3.12")
    environment = Path(directory)
    python = str(environment / "bin" / "python")
    if not Path(python).exists():
        report(f"Creating {environment}")
        subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    package = f".[{extra}]" if extra else "."
    uv = find_uv(environment, python)
    if uv and install("uv", [uv, "pip", "install", "--python", python], package):
        return
    if not install("pip", [*pip(python), "install"], package):
        sys.exit(f"error: {package}: cannot be installed into {environment}. See pip's message above.")


def find_uv(environment: Path, python: str) -> str | None:
    """Return the path of uv, or None. If it is not on PATH, install its wheel."""
    bootstrapped = environment / "bin" / "uv"
    if on_path := shutil.which("uv"):
        return on_path
    if not bootstrapped.exists():
        report("Fetching uv, which installs faster than pip")
        subprocess.run([*pip(python), "install", "--quiet", *PINNED, "uv"], check=False)
    return str(bootstrapped) if bootstrapped.exists() else None


def install(name: str, command: list[str], package: str) -> bool:
    """Install the package in place, and return whether that succeeded."""
    report(f"Installing {package} with {name}")
    return subprocess.run([*command, *PINNED, "--editable", package], check=False).returncode == 0


def pip(python: str) -> list[str]:
    """Return the command of the environment's own pip."""
    return [python, "-m", "pip", "--disable-pip-version-check"]


def report(step: str) -> None:
    """Print a step before it starts."""
    print(f"{step} ...", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
