"""Incompatible versions are refused before torch_xla is imported, with the command that fixes them."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from flowers.errors import InputError
from flowers.training.xla import versions
from flowers.training.xla.versions import TESTED, Versions, check_versions, explain_libtpu, find_versions, release_of


def test_the_installed_versions_are_found_and_compatible() -> None:
    found = find_versions()
    assert (found.torch, found.torch_xla) == (version("torch"), version("torch_xla"))
    assert found.expected_libtpu is not None
    assert release_of(found.torch_xla) in TESTED
    check_versions(found)


@pytest.mark.parametrize(
    ("torch", "torch_xla", "fix"),
    [
        ("2.8.0+cpu", "2.9.0", "torch_xla==2.8.0"),
        ("2.9.1", "2.8.0", "torch_xla==2.9.0"),
        ("2.14.1", "2.9.0", "torch==2.9.0 torch_xla==2.9.0"),
        ("none", "2.9.0", "torch==2.9.0 torch_xla==2.9.0"),
    ],
)
def test_torch_of_another_release_than_torch_xla_is_refused(torch: str, torch_xla: str, fix: str) -> None:
    with pytest.raises(InputError) as error:
        check_versions(Versions(torch, torch_xla))
    assert f"torch {torch}, torch_xla {torch_xla}" in str(error.value)
    assert str(error.value).endswith(f"pip install {fix}")
    check_versions(Versions("2.8.1+cpu", "2.8.0"))


def test_a_missing_torch_xla_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "_find", lambda package: None)
    with pytest.raises(InputError, match="torch_xla"):
        find_versions()


@pytest.mark.parametrize(
    ("libtpu", "problem"),
    [("0.0.17", False), ("0.0.17.1", False), ("0.0.21", True), ("0.0.170", True), (None, True)],
)
def test_a_libtpu_that_torch_xla_was_not_built_for_is_reported(libtpu: str | None, problem: bool) -> None:
    found = explain_libtpu(Versions("2.8.0", "2.8.0", libtpu, "0.0.17"))
    assert (found is not None) == problem
    assert found is None or found.endswith("pip install libtpu==0.0.17")
    assert explain_libtpu(Versions("2.8.0", "2.8.0", libtpu, None)) is None
