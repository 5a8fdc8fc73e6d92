"""Which errors of remote storage are retried, decided by their types and statuses, not by their names."""

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
    """Called as a permanent error is, and none."""


NameOnly.__name__ = "PermissionError"


def client_error(status: int) -> ClientError:
    return ClientError({"ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")  # type: ignore[typeddict-item]


def caused(error: Exception) -> Exception:
    outer = OSError("the file system's own")
    outer.__cause__ = error
    return outer


def failing(error: Exception, times: int) -> tuple[Callable[[], str], list[int]]:
    tries: list[int] = []

    def ask() -> str:
        tries.append(1)
        if len(tries) <= times:
            raise error
        return "fine"

    return ask, tries


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)


@pytest.mark.parametrize(
    "error",
    [ConnectionError("reset"), TimeoutError(), OSError("busy"), client_error(503), client_error(429), NameOnly("odd")],
)
def test_transient_errors_are_retried(error: Exception) -> None:
    ask, tries = failing(error, 2)
    assert retry(PLACE, ask) == "fine"
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
    ask, tries = failing(caused(error) if wrapped else error, 9)
    with pytest.raises(InputError, match=f"^{PLACE}: .*{key}"):
        retry(PLACE, ask)
    assert len(tries) == 1


def test_a_missing_file_may_be_expected() -> None:
    ask, tries = failing(FileNotFoundError("gone"), 9)
    with pytest.raises(FileNotFoundError):
        retry(PLACE, ask, missing=True)
    assert len(tries) == 1


def test_no_optional_package_is_imported() -> None:
    script = (
        "import sys; from flowers.data.storage.retrying import _explain_permanent; from upath import UPath\n"
        "_explain_permanent(UPath('memory://bucket'), OSError('busy'))\n"
        "print(sorted({'botocore', 'google.auth', 'huggingface_hub', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
