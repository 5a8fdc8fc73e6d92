"""Check that the installed torch, torch_xla and libtpu fit together, before any is imported."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from flowers.errors import InputError

TESTED = ("2.8", "2.9")
"""The releases of torch_xla that the tests run on."""


@dataclass(frozen=True, slots=True)
class Versions:
    """The installed versions.

    libtpu: None if it is not installed, as on a machine without a TPU.
    expected_libtpu: the version that torch_xla was built for, from its metadata; None if it names none.
    """

    torch: str
    torch_xla: str
    libtpu: str | None = None
    expected_libtpu: str | None = None

    def __str__(self) -> str:
        libtpu = f", libtpu {self.libtpu}" if self.libtpu else ""
        return f"torch {self.torch}, torch_xla {self.torch_xla}{libtpu}"


def find_versions() -> Versions:
    """Return the installed versions, from the packages' metadata.

    Raises:
        InputError: torch_xla is not installed.
    """
    torch_xla = _find("torch_xla")
    if torch_xla is None:
        raise InputError(
            "trainer=tpu: expected torch_xla to be installed, found none. Images with a TPU bring it; elsewhere "
            "install it with: pip install --constraint constraints.txt --editable '.[tpu]'"
        )
    wanted = (re.match(r"libtpu\s*==\s*([\w.]+)", requirement) for requirement in requires("torch_xla") or ())
    expected = next((match[1] for match in wanted if match), None)
    return Versions(_find("torch") or "none", torch_xla, _find("libtpu"), expected)


def check_versions(versions: Versions) -> None:
    """Raise `InputError` unless torch and torch_xla are of the same release: they share C++ symbols."""
    torch, torch_xla = (release_of(each) for each in (versions.torch, versions.torch_xla))
    if torch == torch_xla:
        return
    # Replace torch only if necessary: where an image brings torch, that would install the CUDA build, of several GB.
    fix = f"torch_xla=={torch}.0" if torch in TESTED else f"torch=={TESTED[-1]}.0 torch_xla=={TESTED[-1]}.0"
    raise InputError(
        f"trainer=tpu: expected torch and torch_xla of the same release, found {versions}. Install matching ones: "
        f"pip install {fix}"
    )


def explain_libtpu(versions: Versions) -> str | None:
    """Explain what is wrong with libtpu, for a machine with a TPU; return None if it fits torch_xla."""
    expected = versions.expected_libtpu
    if expected is None or (versions.libtpu is not None and _is_of(versions.libtpu, expected)):
        return None
    return (
        f"torch_xla {versions.torch_xla} was built for libtpu {expected}, found {versions.libtpu or 'none'}, with "
        f"which it may not start. Install it with: pip install libtpu=={expected}"
    )


def release_of(version: str) -> str:
    """Return the first two numbers of a version: `2.8` of `2.8.0+cpu`."""
    return ".".join(version.split("+")[0].split(".")[:2])


def _is_of(version: str, release: str) -> bool:
    """Return whether a version is a release or a patch of it, as 0.0.21.1 is of 0.0.21."""
    return version == release or version.startswith(f"{release}.")


def _find(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
