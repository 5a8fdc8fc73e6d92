"""Errors of remote storage are retried or not by type and status, not by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ParamValidationError
from google.auth.exceptions import DefaultCredentialsError
from upath import UPath

from flowers.data.storage import retrying
from flowers.data.storage.retrying import retry
from flowers.errors import InputError

PLACE = UPath("memory://bucket/garden")


class NameOnly(Exception):
    """Has the name of a permanent error, but is none."""


NameOnly.__name__ = "PermissionError"


def client_error(status: int) -> ClientError:
    return ClientError({"ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


def wrap(error: Exception) -> Exception:
    outer = OSError("the file system's own")
    outer.__cause__ = error
    return outer


def fail_first(error: Exception, times: int) -> tuple[Callable[[], str], list[int]]:
    tries: list[int] = []

    def request() -> str:
        tries.append(1)
        if len(tries) <= times:
            raise error
        return "fine"

    return request, tries


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)


@pytest.mark.parametrize(
    "error",
    [ConnectionError("reset"), TimeoutError(), OSError("busy"), client_error(503), client_error(429), NameOnly("odd")],
)
def test_transient_errors_are_retried(error: Exception) -> None:
    request, tries = fail_first(error, 2)
    assert retry(PLACE, request) == "fine"
    assert len(tries) == 3


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("error", "key"),
    [
        (PermissionError("refused"), "credentials"),
        (NoCredentialsError(), "credentials"),
        (DefaultCredentialsError("none"), "credentials"),  # type: ignore[no-untyped-call]
        (client_error(403), "credentials"),
        (OSError("Forbidden: gs://bucket"), "credentials"),
        (FileNotFoundError("gone"), "data.root"),
        (client_error(404), "data.root"),
        (ParamValidationError(report="odd"), "data.storage_options"),
        (TypeError("no such argument"), "data.storage_options"),
        (client_error(400), "data.storage_options"),
    ],
)
def test_permanent_errors_are_reported_at_once(error: Exception, key: str, wrapped: bool) -> None:
    request, tries = fail_first(wrap(error) if wrapped else error, 9)
    with pytest.raises(InputError, match=f"^{PLACE}: .*{key}"):
        retry(PLACE, request)
    assert len(tries) == 1


def test_an_expected_missing_file_raises_file_not_found() -> None:
    request, tries = fail_first(FileNotFoundError("gone"), 9)
    with pytest.raises(FileNotFoundError):
        retry(PLACE, request, missing=True)
    assert len(tries) == 1


def test_explaining_an_error_imports_no_optional_package() -> None:
    script = (
        "import sys; from flowers.data.storage.retrying import _explain_permanent; from upath import UPath\n"
        "_explain_permanent(UPath('memory://bucket'), OSError('busy'))\n"
        "print(sorted({'botocore', 'google.auth', 'huggingface_hub', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
