"""Open, list and read directories and files, local or behind a URL, through fsspec."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, cast

from fsspec.registry import get_filesystem_class
from omegaconf import OmegaConf
from upath import UPath

from flowers.data.storage.retrying import describe_error, retry
from flowers.errors import InputError

AnyPath: TypeAlias = Path | UPath
"""A pathlib.Path for a local path, or a UPath, which has the same methods, for a URL."""

_THREADS = 32  # limited by the network, not by the processor
_STATES = (
    *("ETag", "md5Hash", "etag", "blob_id", "Content-MD5", "Digest", "sha"),
    *("Last-Modified", "LastModified", "last_modified", "modified", "modify", "updated", "mtime", "created"),
)
"""Keys that identify the state of a file. The first one that its file system reports is used."""

_END = 64 << 10
"""Bytes at each end of a file that are hashed in place of the whole file."""

for _name in ("gcsfs", "google.auth"):  # they log a traceback of each error, which is reported here once
    logging.getLogger(_name).setLevel(logging.CRITICAL)


def open_root(root: str, storage_options: Mapping[str, Any]) -> AnyPath:
    """Open a data set's directory as `open_path` does, with the credentials of this machine for gs://.

    Raises:
        InputError: as `open_path` does.
    """
    options = OmegaConf.to_container(storage_options) if OmegaConf.is_config(storage_options) else storage_options
    options = dict(cast(Mapping[str, Any], options))
    if root.startswith(("gs://", "gcs://")):
        # By default gcsfs waits for a metadata server, and finally continues without credentials.
        options.setdefault("token", "anon" if "STORAGE_EMULATOR_HOST" in os.environ else "google_default")
    return open_path(root, "data.root", options)


def open_path(text: str, setting: str, storage_options: Mapping[str, Any] | None = None) -> AnyPath:
    """Return a Path for a local path, or a UPath for a URL. No request is made yet.

    Args:
        text: the path or URL.
        setting: the configuration key it comes from, for messages.
        storage_options: arguments of the URL's file system.

    Raises:
        InputError: the protocol is unknown, its package is not installed, or it does not accept `storage_options`.
    """
    protocol, url, path = text.partition("://")
    if not url or protocol in ("file", "local"):
        return Path(path or text)
    try:
        get_filesystem_class(protocol)
        return cast(UPath, UPath(text, **(storage_options or {})))
    except ImportError as error:
        raise InputError(
            f"{setting}={text}: expected the package for {protocol}:// to be installed, found this: "
            f"{describe_error(error)}. For s3:// and gs:// install it with: pip install -e '.[remote]'"
        ) from error
    except ValueError as error:
        raise InputError(
            f"{setting}={text}: expected a path, or a URL that fsspec supports as PROTOCOL://BUCKET/PATH, found this: "
            f"{describe_error(error)}. Known are s3://, gs://, hf://, https:// and others: python -c 'import fsspec; "
            "print(fsspec.available_protocols())'."
        ) from error


def entries(directory: AnyPath) -> list[AnyPath] | None:
    """List a directory in order of name, or return None if there is no such directory.

    Raises:
        InputError: the directory cannot be read.
    """
    if isinstance(directory, Path):
        try:
            return sorted(directory.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise read_error(directory, error) from error

    def list_names() -> list[AnyPath] | None:
        directory.fs.invalidate_cache(directory.path)  # listings are cached for as long as the process lives
        try:
            found = directory.fs.ls(directory.path, detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return [directory / name for name in sorted({str(path).rstrip("/").rpartition("/")[2] for path in found})]

    return retry(directory, list_names)


def read_text(path: AnyPath) -> str | None:
    """Read a UTF-8 text file, or return None if there is none. Line ends are normalised, a byte order mark is removed.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    try:
        if isinstance(path, Path):
            data = path.read_bytes()
        else:
            data = cast(bytes, retry(path, lambda: path.fs.cat_file(path.path), missing=True))
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise read_error(path, error) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a text in UTF-8, found this: {error}. Save it again as UTF-8.") from error


def read_error(path: AnyPath | str, error: OSError) -> InputError:
    """Return the error for a file or directory that exists but cannot be read."""
    return InputError(
        f"{path}: expected to read it, found this: {error.strerror or error}. Fix its permissions, or copy the data "
        "set again."
    )


def size_and_state(path: UPath) -> tuple[int, str]:
    """Return a remote file's size in bytes, and a string that changes with its content: its ETag, hash or time.

    Raises:
        InputError: the file cannot be reached, or its size is unknown.
    """
    info = retry(path, lambda: path.fs.info(path.path))
    if info.get("size") is None:
        raise InputError(f"{path}: expected the server to report the file's size, found none. Use another server.")
    return int(info["size"]), next((f"{key} {info[key]}" for key in _STATES if info.get(key)), "")


def content_state(path: UPath, size: int) -> str:
    """Return a hash of the first and the last bytes of a file, for servers that report neither a hash nor a time.

    Raises:
        InputError: the file cannot be read.
    """
    ends = {(0, min(size, _END)), (max(0, size - _END), size)} if size else set()
    data = read_ranges([(path, start, end) for start, end in sorted(ends)])
    return hashlib.sha256(b"".join(data)).hexdigest()


def read_ranges(ranges: Sequence[tuple[UPath, int, int]]) -> list[bytes]:
    """Fetch the bytes from start to end of each file, all at once. Ranges with transient errors are retried.

    Raises:
        InputError: a range has a permanent error, or too many transient ones.
    """
    found: dict[int, bytes] = {}

    def fetch_missing() -> None:
        wanted = [number for number in range(len(ranges)) if number not in found]
        answers = list(_fetch_ranges([ranges[number] for number in wanted]))
        found.update((n, answer) for n, answer in zip(wanted, answers, strict=True) if isinstance(answer, bytes))
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer

    if ranges:
        retry(ranges[0][0], fetch_missing)
    return [found[number] for number in range(len(ranges))]


def _fetch_ranges(ranges: Sequence[tuple[UPath, int, int]]) -> Iterator[bytes | Exception]:
    fs = ranges[0][0].fs

    def fetch_one(path: str, start: int, end: int) -> bytes | Exception:
        return cast("bytes | Exception", fs.cat_ranges([path], [start], [end], on_error="return")[0])

    paths, starts, ends = [path.path for path, _, _ in ranges], [r[1] for r in ranges], [r[2] for r in ranges]
    if fs.async_impl:
        found = fs.cat_ranges(paths, starts, ends, on_error="return")
    else:  # such as hf://, which would fetch them one by one
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(fetch_one, paths, starts, ends))
    for (path, start, end), answer in zip(ranges, found, strict=True):
        if isinstance(answer, Exception) or len(answer) == end - start:
            yield answer
        elif len(answer) > end - start:
            raise InputError(
                f"{path}: expected the server to send only bytes {start} to {end}, found {len(answer)} bytes: it does "
                "not support ranges. Use another server, or copy the data set to a local directory."
            )
        else:
            yield ConnectionError(f"expected {end - start} bytes, found {len(answer)}")
