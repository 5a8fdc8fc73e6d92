"""A W&B server on loopback that answers just enough for the real client to go online, and fails on command."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from wandb.proto.wandb_internal_pb2 import Record

API_KEY = "x" * 40
BLOCK = 32768

Behaviour = Literal["answer", "hang"] | int


class WandbServer(ThreadingHTTPServer):
    """What it does with each request is `behaviour`: answer, never answer, or answer with that HTTP status.

    `requests` names what was asked for: a GraphQL operation, or else the path.
    `hang_on` names those of them that are never answered while others are.
    `views` are the workspaces that were saved, as their variables; None: there is no such project.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, behaviour: Behaviour = "answer", hang_on: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.hang_on = hang_on
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.views: list[dict[str, Any]] | None = []
        self.closed = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """Return what a client's environment needs to be logged in here, if `WANDB_MODE` is not set."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_ERROR_REPORTING": "false",
        }

    def vanish(self) -> None:
        """Stop listening and drop the requests under way: new connections are refused."""
        self.closed.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query: dict[str, Any] = json.loads(body) if self.path == "/graphql" else {}
        operation = query.get("query", "").replace("{", " ").replace("(", " ").split()[:2]
        name = operation[-1] if operation else self.path
        self.server.requests.append(name)
        self.server.bodies.append(body)
        behaviour = self.server.behaviour
        if behaviour == "hang" or any(part in name for part in self.server.hang_on):
            self.server.closed.wait()
        if self.server.closed.is_set():
            self.close_connection = True
            return
        answer = json.dumps(self._answer(query)).encode()
        self.send_response(behaviour if isinstance(behaviour, int) else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _respond  # noqa: N815

    def _answer(self, query: dict[str, Any]) -> dict[str, Any]:
        text, variables = query.get("query", ""), query.get("variables") or {}
        data: dict[str, Any] = {}
        if "upsertBucket" in text:
            project = {"id": "p", "name": "flowers", "entity": {"id": "e", "name": "me"}}
            bucket = {"id": "b", "name": variables.get("name"), "displayName": "a run", "project": project}
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        elif "createRunFiles" in text:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/put/{name}"} for name in variables["files"]]
            data = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        elif "upsertView" in text:
            data = {"upsertView": self._save_view(variables)}
        elif "allViews" in text:
            edges = [{"node": view} for view in self.server.views or []]
            data = {"project": None if self.server.views is None else {"allViews": {"edges": edges}}}
        elif "viewer" in text:
            data = {"viewer": {"id": "v", "entity": "me", "username": "me"}}
        return {"data": data} if query else {}

    def _save_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Replace the view of an id, or add one if no id is given, as W&B's API documents it."""
        views = self.server.views
        assert views is not None
        number = next((at for at, view in enumerate(views) if view["id"] == variables.get("id")), len(views))
        inserted = number == len(views)
        views[number:] = [{**variables, "id": f"view-{number}"}, *views[number + 1 :]]
        return {"view": {name: views[number][name] for name in ("id", "name")}, "inserted": inserted}


@contextmanager
def wandb_server(behaviour: Behaviour = "answer", hang_on: tuple[str, ...] = ()) -> Iterator[WandbServer]:
    server = WandbServer(behaviour, hang_on)
    try:
        yield server
    finally:
        with suppress(OSError):
            server.vanish()


def read_records(directory: Path) -> list[Record]:
    """Read the records of the one `.wandb` file in a run's directory: LevelDB's log format behind seven bytes."""
    (path,) = directory.glob("*.wandb")
    data, position, parts, records = path.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = BLOCK - position % BLOCK
        if left < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(Record.FromString(parts))
            parts = b""
    return records
