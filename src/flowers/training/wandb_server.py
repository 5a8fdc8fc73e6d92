"""Find out whether W&B's server can be used: who is logged in, and whether it answers."""

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
    """Return the key for the server at `url`: from `WANDB_API_KEY`, or from where `wandb login` puts it."""
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
    """Send W&B's server one request, and explain why it cannot be used; return None if it answers.

    Whether the answer makes sense is left to W&B's client, which may have other certificates and credentials.
    """
    answers: SimpleQueue[str | None] = SimpleQueue()
    # In a thread, as a name that cannot be resolved blocks for longer than any time limit of a socket.
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
