"""Retry requests to remote storage after transient errors, and report permanent errors with their fix."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import TypeVar, cast

from upath import UPath

from flowers.errors import InputError

T = TypeVar("T")

TRIES = 5
FIRST_WAIT = 1.0
"""Seconds before the first retry, doubled for each further one."""
MAX_SECONDS = 60.0
"""Seconds after which there is no further retry: s3fs and gcsfs try several times within one of ours."""

_CREDENTIAL_ERRORS = (
    "botocore.exceptions.NoCredentialsError",
    "google.auth.exceptions.DefaultCredentialsError",
    "google.auth.exceptions.RefreshError",
    "huggingface_hub.errors.GatedRepoError",
)
"""Errors of missing or refused credentials that carry no HTTP status 401 or 403."""
_CREDENTIALS = {
    "s3": (
        "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket, set "
        "'data.storage_options={anon: true}'."
    ),
    "gs": (
        "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file; for a "
        "public bucket, set 'data.storage_options={token: anon}'."
    ),
    "hf": "Run `hf auth login`, or set HF_TOKEN.",
}


def retry(place: UPath, request: Callable[[], T], *, missing: bool = False) -> T:
    """Return the result of `request()`, retried at growing intervals after transient errors.

    Args:
        place: the remote file or directory, for messages.
        request: the request.
        missing: whether FileNotFoundError is raised unchanged.

    Raises:
        InputError: a permanent error, or too many transient ones. The message names the place, the error and the fix.
        FileNotFoundError: nothing exists at `place`, and `missing` is true.
    """
    start = time.monotonic()
    for tried in count(1):
        try:
            return request()
        except InputError:
            raise
        except Exception as error:  # each file system raises its own types, often from packages that are not installed
            if missing and isinstance(error, FileNotFoundError):
                raise
            if reason := _explain_permanent(place, error):
                raise InputError(f"{place}: {reason}") from error
            if tried == TRIES or time.monotonic() - start > MAX_SECONDS:
                raise InputError(
                    f"{place}: expected an answer, found after {tried} tries in {time.monotonic() - start:.0f} s this: "
                    f"{describe_error(error)}. Check the network and the service, then start again: records that were "
                    "fetched are cached."
                ) from error
        # Random, because workers that fail together would otherwise retry together.
        time.sleep(FIRST_WAIT * 2 ** (tried - 1) * random.uniform(0.5, 1.0))
    raise AssertionError


def _explain_permanent(place: UPath, error: Exception) -> str | None:
    """Explain why a retry is useless, with the fix, or return None if a retry may succeed."""
    chain = list(_causes(error))
    found = describe_error(error)
    status = next((status for cause in chain if (status := _http_status(cause))), None)
    if status in (401, 403) or _has_type(chain, PermissionError, *_imported_types(*_CREDENTIAL_ERRORS)):
        protocol = {"gcs": "gs", "s3a": "s3"}.get(place.protocol, place.protocol)
        fix = _CREDENTIALS.get(protocol, "Set them in data.storage_options, which are passed to fsspec.")
        return f"expected credentials with read access, found none or refused ones: {found}. {fix}"
    if status == 404 or _has_type(chain, FileNotFoundError):
        return f"no such file, directory or bucket: {found}. Set data.root to where the data set is."
    if _refuses_arguments(chain):
        return f"expected a URL and data.storage_options that {place.protocol}:// accepts, found this: {found}."
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        return f"refused: {found}. Correct data.root or data.storage_options."
    return None


def _refuses_arguments(chain: list[BaseException]) -> bool:
    """Return whether the arguments were invalid. A garbled answer is a ValueError, too, but a transient error."""
    garbled = _imported_types("requests.exceptions.JSONDecodeError")
    refused = _imported_types("botocore.exceptions.ParamValidationError")
    if _has_type(chain, json.JSONDecodeError, UnicodeDecodeError, *garbled):
        return False
    return _has_type(chain, TypeError, ValueError, NotImplementedError, *refused)


def _has_type(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in chain)


def _imported_types(*names: str) -> tuple[type[BaseException], ...]:
    """Return the exception types of these dotted names whose modules are imported. No others can have been raised.

    Importing the modules here would make all of their packages required.
    """
    split = [name.rpartition(".") for name in names]
    found = [getattr(sys.modules[module], kind) for module, _, kind in split if module in sys.modules]
    return cast(tuple[type[BaseException], ...], tuple(found))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status of an error from botocore, gcsfs, aiohttp, requests or httpx, if it has one."""
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs raises it without a status
        return 403
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return cast("int | None", answer.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for found in (getattr(error, "status", None), getattr(error, "code", None), getattr(answer, "status_code", None)):
        if str(found).isdigit():
            return int(str(found))
    return None


def describe_error(error: Exception) -> str:
    """Return an error's class and message on one line, with at most 300 characters of the message."""
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}{': ' * bool(message)}{message[:300]}"
