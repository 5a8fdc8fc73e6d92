"""Rename the template's package: python scripts/rename.py my_project [--force].

It renames the package's directory, its imports, the targets in configurations, the distribution and its commands, the
environment variables, the cache directory and the W&B project, in code, tests, configurations and documentation.
Names of data do not change: class names, data sets, benchmark results. Nothing changes unless all checks pass.
"""

from __future__ import annotations

import argparse
import importlib.util
import keyword
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

Rule = tuple[re.Pattern[str], str]


def main() -> None:
    """Check, rename and report, or exit with a message that names the fix."""
    parser = argparse.ArgumentParser(description="Rename the template's package everywhere.")
    parser.add_argument("name", help="the new name, such as my_project")
    parser.add_argument("--force", action="store_true", help="rename although files have uncommitted changes")
    arguments = parser.parse_args()
    old, new = find_package(), arguments.name
    if reason := refuse_name(new) or (None if arguments.force else refuse_tree()):
        sys.exit(f"error: {reason}")
    changed = rewrite(list(rules(old, new)))
    (ROOT / "src" / old).rename(ROOT / "src" / new)
    for path, text in changed.items():
        path = ROOT / "src" / new / path.relative_to(ROOT / "src" / old) if ROOT / "src" / old in path.parents else path
        path.write_text(text)
    shutil.rmtree(ROOT / "src" / f"{old}.egg-info", ignore_errors=True)
    print(f"Renamed {old} to {new} in {len(changed)} files.")
    if left := sort_imports():
        print(left)
    print("Next: make train, which installs it under its new name; make lint; git add --all && git commit")


def find_package() -> str:
    """Return the name of the package in src/."""
    return next((ROOT / "src").glob("*/__init__.py")).parent.name


def refuse_name(new: str) -> str | None:
    """Explain why a name cannot be the package's, or return None if it can."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", new) or keyword.iskeyword(new):
        return f"{new}: expected a lower-case Python identifier, such as my_project."
    if new in sys.stdlib_module_names:
        return f"{new}: a module of Python's standard library has this name. Choose another one."
    if new in taken_names():
        return f"{new}: the repository has this name already. Choose another one."
    if new in pinned_names() or importlib.util.find_spec(new):
        return f"{new}: an installed package has this name. Choose another one."
    return None


def taken_names() -> set[str]:
    """Return the names of the repository's modules and directories."""
    return {path.stem for folder in (ROOT, ROOT / "src") for path in folder.iterdir() if not path.name.startswith(".")}


def pinned_names() -> set[str]:
    """Return the names of all dependencies, installed or not."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {line.partition("==")[0].lower().replace("-", "_") for line in lines}


def refuse_tree() -> str | None:
    """Explain why the work tree must not be changed, or return None if git can undo the renaming."""
    try:
        status = git("status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return f"{ROOT}: expected a git repository, found none. Make one: git init && git add --all && git commit"
    return "expected no uncommitted changes: commit or stash them, or pass --force." if status else None


def rules(old: str, new: str) -> Iterator[Rule]:
    """Yield patterns and their replacements. They match the package's name, but not the same word elsewhere."""
    yield re.compile(rf"(?<![\w./-]){old}\.(?=[a-z_])"), f"{new}."  # flowers.training
    yield re.compile(rf"\bfrom {old}(?= import\b)"), f"from {new}"
    yield re.compile(rf"\bimport {old}\b(?![.-])"), f"import {new}"
    yield re.compile(rf"\bsrc/{old}\b"), f"src/{new}"
    modules = "|".join(path.stem for path in (ROOT / "src" / old).iterdir())
    yield re.compile(rf"(?<![\w./-]){old}/(?=(?:{modules})\b)"), f"{new}/"  # flowers/training/
    yield re.compile(rf"\.cache/{old}\b"), f".cache/{new}"
    yield re.compile(rf"\b{old.upper()}_(?=[A-Z])"), f"{new.upper()}_"  # environment variables
    old_project, new_project = old.replace("_", "-"), new.replace("_", "-")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for command in project["scripts"]:
        yield re.compile(rf"(?<![\w-]){command}(?![\w-])"), command.replace(old_project, new_project, 1)
    yield re.compile(rf'^((?:name =|  "name":) "){old_project}"', re.MULTILINE), rf'\1{new_project}"'
    yield (
        re.compile(rf'^((?:include|root_packages|containers|source_modules) = \[)"{old}(?=\*?")', re.MULTILINE),
        (rf'\1"{new}'),
    )
    yield re.compile(rf"^(\s*project:\s+){old}\b", re.MULTILINE), rf"\1{new}"  # the W&B project
    yield re.compile(rf"^((?:# |title: )){old_project}$", re.MULTILINE), rf"\1{new_project}"  # README, CITATION


def rewrite(replacements: list[Rule]) -> dict[Path, str]:
    """Return the new content of every tracked file that changes."""
    changed = {}
    for path in (ROOT / name for name in git("ls-files", "-z").split("\0") if name):
        try:
            text = before = path.read_text()
        except (UnicodeDecodeError, FileNotFoundError):
            continue  # not text, or deleted
        for pattern, replacement in replacements:
            text = pattern.sub(replacement, text)
        if text != before:
            changed[path] = text
    return changed


def sort_imports() -> str:
    """Sort imports and format with ruff; return the problems that it cannot fix, or a reminder if it is missing."""
    ruff = shutil.which("ruff", path=f"{ROOT / '.venv' / 'bin'}:{Path(sys.executable).parent}") or shutil.which("ruff")
    if not ruff:
        return "Its imports may need sorting: make format"
    for command in (["check", "--select", "I", "--fix"], ["format"]):
        subprocess.run([ruff, *command, "--quiet", str(ROOT)], check=False)
    check = [ruff, "check", "--quiet", "--output-format", "concise", str(ROOT)]
    left = subprocess.run(check, check=False, capture_output=True, text=True).stdout
    return f"Fix these by hand, as the new name makes lines too long:\n{left}" if left else ""


def git(*arguments: str) -> str:
    """Return the output of a git command."""
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
