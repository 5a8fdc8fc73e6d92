"""Data sets behind a URL, by fsspec: asked again where they fail in passing, explained where they fail for good."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from fsspec.registry import get_filesystem_class
from omegaconf import OmegaConf
from upath import UPath

from flowers.errors import InputError

T = TypeVar("T")
AnyPath: TypeAlias = Path | UPath
"""A pathlib.Path where it is local, a UPath, with the same methods, where it is not."""

TRIES = 5
FIRST_WAIT = 1.0
"""Seconds, doubled after each try."""
PATIENCE = 60.0
"""Seconds after which there is no other try: s3fs and gcsfs try several times within one of ours."""

_THREADS = 32  # they wait for the network, not for the processor
_STATES = (
    *("ETag", "md5Hash", "etag", "blob_id", "Content-MD5", "Digest", "sha"),
    *("Last-Modified", "LastModified", "last_modified", "modified", "modify", "updated", "mtime", "created"),
)
"""What tells one state of a file from another: the first of these that its file system gives."""

_END = 64 << 10
"""Bytes at each end of a file that stand for all of it."""
_GARBLED = {"JSONDecodeError", "UnicodeDecodeError"}
"""ValueErrors of an answer, not of what was asked."""
_REFUSED = {"PermissionError", "NoCredentialsError", "DefaultCredentialsError", "RefreshError", "GatedRepoError"}
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

for _name in ("gcsfs", "google.auth"):  # they print the traceback of each failure, which is told here once
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def open_root(root: str, storage_options: Mapping[str, Any]) -> AnyPath:
    """The directory that `root` names: a Path, or a UPath where it is a URL. Nothing is asked of the other side yet.

    Raises:
        InputError: the protocol is unknown, its package is not installed, or it does not take `storage_options`.
    """
    protocol, url, path = root.partition("://")
    if not url or protocol in ("file", "local"):
        return Path(path or root)
    options = OmegaConf.to_container(storage_options) if OmegaConf.is_config(storage_options) else storage_options
    options = dict(cast(Mapping[str, Any], options))
    if protocol in ("gs", "gcs"):
        # By itself gcsfs would wait for a metadata server, and at last go on without credentials.
        options.setdefault("token", "anon" if "STORAGE_EMULATOR_HOST" in os.environ else "google_default")
    try:
        get_filesystem_class(protocol)
        return cast(UPath, UPath(root, **options))
    except ImportError as error:
        raise InputError(
            f"data.root={root}: expected the package for {protocol}:// to be installed, found this: {_told(error)}. "
            "For s3:// and gs:// install it with: pip install -e '.[remote]'"
        ) from error
    except ValueError as error:
        raise InputError(
            f"data.root={root}: expected a directory, or a URL that fsspec knows as PROTOCOL://BUCKET/PATH, found "
            f"this: {_told(error)}. Known are s3://, gs://, hf://, https:// and others: python -c 'import fsspec; "
            "print(fsspec.available_protocols())'."
        ) from error


def entries(directory: AnyPath) -> list[AnyPath] | None:
    """What is in a directory, in order of name; None where there is no such directory."""
    if isinstance(directory, Path):
        try:
            return sorted(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(directory, error) from error

    def ask() -> list[AnyPath] | None:
        directory.fs.invalidate_cache(directory.path)  # a listing is kept for as long as the process lives
        try:
            found = directory.fs.ls(directory.path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [directory / name for name in sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})]

    return patiently(directory, ask)


def read_text(path: AnyPath) -> str | None:
    """A text file's content, with plain line ends and without a byte order mark; None where there is no such file.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        if isinstance(path, Path):
            data = path.read_bytes()
        else:
            data = cast(bytes, patiently(path, lambda: path.fs.cat_file(path.path), missing=True))
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a text in UTF-8, found this: {error}. Save it again as UTF-8.") from error


def unreadable(path: AnyPath | str, error: OSError) -> InputError:
    """The message for a local file or directory that is there but cannot be read."""
    return InputError(
        f"{path}: expected to read it, found this: {error.strerror or error}. Give yourself the right to read it, or "
        "copy the data set again."
    )


def size_and_state(path: UPath) -> tuple[int, str]:
    """A remote file's size in bytes, and what changes when its content does: its ETag, hash or time."""
    info = patiently(path, lambda: path.fs.info(path.path))
    if info.get("size") is None:
        raise InputError(f"{path}: expected the server to tell the file's size, found none. Use another server.")
    return int(info["size"]), next((f"{key} {info[key]}" for key in _STATES if info.get(key)), "")


def content_state(path: UPath, size: int) -> str:
    """A hash of the first and the last bytes of a file of which its server tells neither a hash nor a time."""
    ends = {(0, min(size, _END)), (max(0, size - _END), size)} if size else set()
    data = read_ranges([(path, start, end) for start, end in sorted(ends)])
    return hashlib.sha256(b"".join(data)).hexdigest()


def read_ranges(ranges: Sequence[tuple[UPath, int, int]]) -> list[bytes]:
    """The bytes from start to end of each file, fetched at once; those that fail in passing are asked for again.

    Raises:
        InputError: one of them fails for good; see the message.
    """
    found: dict[int, bytes] = {}

    def ask() -> None:
        wanted = [number for number in range(len(ranges)) if number not in found]
        answers = list(_ask_ranges([ranges[number] for number in wanted]))
        found.update((n, answer) for n, answer in zip(wanted, answers, strict=True) if isinstance(answer, bytes))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    if ranges:
        patiently(ranges[0][0], ask)
    return [found[number] for number in range(len(ranges))]


def _ask_ranges(ranges: Sequence[tuple[UPath, int, int]]) -> Iterator[bytes | Exception]:
    fs = ranges[0][0].fs

    def ask_one(path: str, start: int, end: int) -> bytes | Exception:
        return cast("bytes | Exception", fs.cat_ranges([path], [start], [end], on_error="return")[0])

    paths, starts, ends = [path.path for path, _, _ in ranges], [r[1] for r in ranges], [r[2] for r in ranges]
    if fs.async_impl:
        found = fs.cat_ranges(paths, starts, ends, on_error="return")
    else:  # such as hf://, which would ask for one after the other
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(ask_one, paths, starts, ends))
    for (path, start, end), answer in zip(ranges, found, strict=True):
        if isinstance(answer, Exception) or len(answer) == end - start:
            yield answer
        elif len(answer) > end - start:
            raise InputError(
                f"{path}: expected the server to send bytes {start} to {end} alone, found {len(answer)} bytes: it does "
                "not know ranges. Use another server, or copy the data set to a local directory."
            )
        else:
            yield ConnectionError(f"expected {end - start} bytes, found {len(answer)}")


def patiently(place: UPath, ask: Callable[[], T], *, missing: bool = False) -> T:
    """What `ask` answers of a remote place; tried again, at growing intervals, where that may help.

    Raises:
        InputError: it fails for good. The message names the place, what happened, and the fix.
        FileNotFoundError: nothing is there, and that may be (`missing`).
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
            if reason := _final(place, error):
                raise InputError(f"{place}: {reason}") from error
            if tried == TRIES or time.monotonic() - start > PATIENCE:
                raise InputError(
                    f"{place}: expected an answer, found after {tried} tries in {time.monotonic() - start:.0f} s this: "
                    f"{_told(error)}. Look at the network and the service, then start again: what has arrived is kept."
                ) from error
        # Workers that fail together would otherwise ask again together.
        time.sleep(FIRST_WAIT * 2 ** (tried - 1) * random.uniform(0.5, 1.0))
    raise AssertionError


def _final(place: UPath, error: Exception) -> str | None:
    """Why it would be of no use to try again, and the fix; None where it may be of use."""
    chain = list(_causes(error))
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    status = next((found for cause in chain if (found := _http_status(cause))), None)
    if status in (401, 403) or names & _REFUSED:
        protocol = {"gcs": "gs", "s3a": "s3"}.get(place.protocol, place.protocol)
        fix = _CREDENTIALS.get(protocol, "Give them in data.storage_options, which fsspec hands on.")
        return f"expected credentials that may read it, found none or others: {_told(error)}. {fix}"
    if status == 404 or "FileNotFoundError" in names:
        return f"no such file, directory or bucket: {_told(error)}. Set data.root to where the data set is."
    if not names & _GARBLED and names & {"TypeError", "ValueError", "NotImplementedError", "ParamValidationError"}:
        return f"expected a URL and data.storage_options that {place.protocol}:// takes, found this: {_told(error)}."
    if status is not None and 400 <= status < 500 and status not in (408, 425, 429):
        return f"refused: {_told(error)}. Correct data.root or data.storage_options."
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _http_status(error: BaseException) -> int | None:
    """The HTTP status that an error of botocore, gcsfs, aiohttp, requests or httpx came with."""
    if str(error).startswith("Forbidden"):  # gcsfs' OSError
        return 403
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        return cast("int | None", answer.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    for found in (getattr(error, "status", None), getattr(error, "code", None), getattr(answer, "status_code", None)):
        if str(found).isdigit():
            return int(str(found))
    return None


def _told(error: Exception) -> str:
    message = " ".join(str(error).split()).rstrip(".")
    return f"{type(error).__name__}{': ' * bool(message)}{message[:300]}"
