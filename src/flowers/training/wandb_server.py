"""Check whether W&B's server can be used: whether there is an API key, and whether the server answers."""

from __future__ import annotations

import netrc
import os
import sys
from base64 import b64encode
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from ssl import SSLError
from threading import Thread
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import wandb


def find_api_key(url: str) -> str | None:
    """Return the API key for the server at `url`; None if there is none.

    It comes from `WANDB_API_KEY`, or from the netrc file that `wandb login` writes.
    """
    if key := os.environ.get("WANDB_API_KEY"):
        return key
    path = Path(os.environ.get("NETRC", "~/_netrc" if sys.platform == "win32" else "~/.netrc")).expanduser()
    machines = [urlsplit(url).netloc]
    if machines[0].endswith("forge.coreweave.com"):
        machines.append("api.wandb.ai")  # the same server under its older name
    try:
        entries = netrc.netrc(path)
    except (OSError, netrc.NetrcParseError):
        return None
    keys = [entry[2] for machine in machines if (entry := entries.authenticators(machine))]
    return keys[0] if keys else None


def find_server_problem(url: str, key: str | None, seconds: float) -> str | None:
    """Send W&B's server one request. Return why it cannot be used, or None if it answers.

    Other client errors and certificate problems do not count, because W&B's client may have other certificates and
    credentials.

    Args:
        url: the server's address.
        key: the API key; None: send the request without one.
        seconds: the time limit.
    """
    answers: SimpleQueue[str | None] = SimpleQueue()
    # In a thread, because resolving a host name may block for longer than a socket's time limit.
    Thread(target=lambda: answers.put(_request(url, key, 2 * seconds)), daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except Empty:
        return f"no answer within {seconds:g} s"


def _request(url: str, key: str | None, seconds: float) -> str | None:
    headers = {"Content-Type": "application/json", "User-Agent": f"flowers, wandb {wandb.__version__}"}
    if key is not None:
        headers["Authorization"] = "Basic " + b64encode(f"api:{key}".encode()).decode()
    query = Request(f"{url}/graphql", b'{"query": "query Probe { viewer { id } }"}', headers)
    try:
        with urlopen(query, timeout=seconds):
            return None
    except HTTPError as error:
        if error.code == HTTPStatus.UNAUTHORIZED and key is not None:
            return "the API key is refused (see wandb login)"
        return f"HTTP status {error.code}" if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR else None
    except URLError as error:
        return None if isinstance(error.reason, SSLError) else str(error.reason)
    except (OSError, ValueError, HTTPException) as error:
        return str(error) or type(error).__name__
