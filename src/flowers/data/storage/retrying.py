"""Ask remote storage: retry transient errors, report permanent ones with their fix."""

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
"""Seconds, doubled after each try."""
PATIENCE = 60.0
"""Seconds after which there is no other try: s3fs and gcsfs try several times within one of ours."""

_REFUSED = (
    "botocore.exceptions.NoCredentialsError",
    "google.auth.exceptions.DefaultCredentialsError",
    "google.auth.exceptions.RefreshError",
    "huggingface_hub.errors.GatedRepoError",
)
"""Missing or refused credentials that come without an HTTP status of that meaning."""
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


def retry(place: UPath, ask: Callable[[], T], *, missing: bool = False) -> T:
    """Return `ask()`, a request to a remote place, repeated at growing intervals after transient errors.

    Raises:
        InputError: a permanent error, or too many transient ones. The message names the place, the error, and the fix.
        FileNotFoundError: nothing is there, if `missing` allows that.
    """
    start = time.monotonic()
    for tried in count(1):
        try:
            return ask()
        except InputError:
            raise
        except Exception as error:  # each file system raises its own kinds, often of packages that are not installed
            if missing and isinstance(error, FileNotFoundError):
                raise
            if reason := _explain_permanent(place, error):
                raise InputError(f"{place}: {reason}") from error
            if tried == TRIES or time.monotonic() - start > PATIENCE:
                raise InputError(
                    f"{place}: expected an answer, found after {tried} tries in {time.monotonic() - start:.0f} s this: "
                    f"{describe_error(error)}. Look at the network and the service, then start again: what has arrived "
                    "is kept."
                ) from error
        # Workers that fail together would otherwise retry together.
        time.sleep(FIRST_WAIT * 2 ** (tried - 1) * random.uniform(0.5, 1.0))
    raise AssertionError


def _explain_permanent(place: UPath, error: Exception) -> str | None:
    """Explain why another try is useless, and the fix, or return None if it may succeed."""
    chain = list(_causes(error))
    found = describe_error(error)
    status = next((status for cause in chain if (status := _http_status(cause))), None)
    if status in (401, 403) or _any_is(chain, PermissionError, *_loaded(*_REFUSED)):
        protocol = {"gcs": "gs", "s3a": "s3"}.get(place.protocol, place.protocol)
        fix = _CREDENTIALS.get(protocol, "Give them in data.storage_options, which fsspec hands on.")
        return f"expected credentials that may read it, found none or others: {found}. {fix}"
    if status == 404 or _any_is(chain, FileNotFoundError):
        return f"no such file, directory or bucket: {found}. Set data.root to where the data set is."
    if _refuses_arguments(chain):
        return f"expected a URL and data.storage_options that {place.protocol}:// takes, found this: {found}."
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        return f"refused: {found}. Correct data.root or data.storage_options."
    return None


def _refuses_arguments(chain: list[BaseException]) -> bool:
    """Return whether the request could not be made: a garbled answer is a ValueError, too, but a transient one."""
    garbled = _loaded("requests.exceptions.JSONDecodeError")
    refused = _loaded("botocore.exceptions.ParamValidationError")
    if _any_is(chain, json.JSONDecodeError, UnicodeDecodeError, *garbled):
        return False
    return _any_is(chain, TypeError, ValueError, NotImplementedError, *refused)


def _any_is(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in chain)


def _loaded(*names: str) -> tuple[type[BaseException], ...]:
    """Return the exceptions of these dotted names whose modules are imported: no others can have been raised.

    Importing the modules here would make all of their packages necessary.
    """
    split = [name.rpartition(".") for name in names]
    found = [getattr(sys.modules[module], kind) for module, _, kind in split if module in sys.modules]
    return cast(tuple[type[BaseException], ...], tuple(found))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _http_status(error: BaseException) -> int | None:
    """Return the HTTP status in an error of botocore, gcsfs, aiohttp, requests or httpx, if there is one."""
    if isinstance(error, OSError) and str(error).startswith("Forbidden"):  # gcsfs raises it without a number
        return 403
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return cast("int | None", answer.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for found in (getattr(error, "status", None), getattr(error, "code", None), getattr(answer, "status_code", None)):
        if str(found).isdigit():
            return int(str(found))
    return None


def describe_error(error: Exception) -> str:
    """Return an error's class and message in one line of bounded length."""
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}{': ' * bool(message)}{message[:300]}"
