"""A local W&B server that answers just enough for the real client to go online, and can be made to fail."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from wandb.proto.wandb_internal_pb2 import Record

API_KEY = "x" * 40
BLOCK = 32768

Behaviour = Literal["answer", "hang"] | int


@dataclass
class StoredRun:
    """A run as stored by the server: its variables, the lines of its streams by offset, and its files by name."""

    variables: dict[str, Any] = field(default_factory=dict)
    streams: dict[str, dict[int, str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    def history(self) -> list[dict[str, Any]]:
        """Return the rows of the history in line order."""
        return [json.loads(line) for _, line in sorted(self.streams.get("wandb-history.jsonl", {}).items())]

    def summary(self) -> dict[str, Any]:
        lines = self.streams.get("wandb-summary.json", {})
        summary: dict[str, Any] = json.loads(lines[max(lines)]) if lines else {}
        return summary

    def config(self) -> dict[str, Any]:
        return {name: entry["value"] for name, entry in json.loads(self.variables.get("config") or "{}").items()}

    def store(self, update: dict[str, Any]) -> None:
        """Store the content of a request to the file stream."""
        for name, chunk in update.get("files", {}).items():
            lines = self.streams.setdefault(name, {})
            lines.update(enumerate(chunk["content"], chunk["offset"]))
        if update.get("complete"):
            self.exit_code = update["exitcode"]

    def resume_status(self, name: str) -> dict[str, Any]:
        history, events = (self.streams.get(f"wandb-{part}.jsonl", {}) for part in ("history", "events"))
        return {
            "id": "b",
            "name": name,
            "historyLineCount": len(history),
            "eventsLineCount": len(events),
            "logLineCount": len(self.streams.get("output.log", {})),
            "historyTail": json.dumps([line for _, line in sorted(history.items())][-1:]),
            "eventsTail": json.dumps([line for _, line in sorted(events.items())][-1:]),
            "summaryMetrics": json.dumps(self.summary()),
            "config": self.variables.get("config") or "{}",
            "tags": self.variables.get("tags") or [],
            "wandbConfig": json.dumps({"t": 1}),
        }


class WandbServer(ThreadingHTTPServer):
    """A local W&B server.

    `behaviour` applies to every request: answer, never answer, or answer with that HTTP status.
    `requests` lists what was requested: the name of the GraphQL operation, or else the path.
    `hang_on` lists parts of request names that are never answered, while others are.
    `runs` holds the uploads by run id. A client that resumes a run gets the counts of what is stored.
    `artifacts` holds the files of artifacts by name, and `artifact_types` the type of each artifact.
    `views` are the variables of the saved workspaces. None: there is no such project.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, behaviour: Behaviour = "answer", hang_on: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = behaviour
        self.hang_on = hang_on
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.runs: dict[str, StoredRun] = {}
        self.artifacts: dict[str, bytes] = {}
        self.artifact_types: dict[str, str] = {}
        self.views: list[dict[str, Any]] | None = []
        self.closed = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """Return the environment variables that log a client in here, if `WANDB_MODE` is not set."""
        return {
            "WANDB_BASE_URL": self.url,
            "WANDB_API_KEY": API_KEY,
            "WANDB_ERROR_REPORTING": "false",
        }

    def vanish(self) -> None:
        """Stop listening and drop pending requests. New connections are refused."""
        self.closed.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing when a client hangs up."""


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
        if behaviour == "answer":
            self._store(query, body)
        answer = json.dumps(self._answer(query)).encode()
        self.send_response(behaviour if isinstance(behaviour, int) else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_PUT = _respond  # noqa: N815

    def _store(self, query: dict[str, Any], body: bytes) -> None:
        runs, variables = self.server.runs, query.get("variables") or {}
        if "upsertBucket" in query.get("query", ""):
            stored = runs.setdefault(variables.get("name"), StoredRun())
            stored.variables |= {name: value for name, value in variables.items() if value is not None}
        elif "createArtifact(" in query.get("query", ""):
            created = variables["input"]
            self.server.artifact_types[created["artifactCollectionName"]] = created["artifactTypeName"]
        elif self.path.endswith("/file_stream"):
            runs.setdefault(self.path.split("/")[-2], StoredRun()).store(json.loads(body))
        elif self.path.startswith("/put/"):
            run, _, name = self.path.removeprefix("/put/").partition("/")
            files = self.server.artifacts if run == "artifacts" else runs.setdefault(run, StoredRun()).files
            files[name] = body

    def _answer(self, query: dict[str, Any]) -> dict[str, Any]:
        text, variables = query.get("query", ""), query.get("variables") or {}
        data: dict[str, Any] = {}
        if "upsertBucket" in text:
            entity = {"id": "e", "name": variables.get("entity") or "me"}
            project = {"id": "p", "name": variables.get("project") or "flowers", "entity": entity}
            bucket = {"id": "b", "name": variables.get("name"), "displayName": "a run", "project": project}
            data = {"upsertBucket": {"bucket": bucket, "inserted": True}}
        elif "createRunFiles" in text:
            files = [
                {"name": name, "uploadUrl": f"{self.server.url}/put/{variables['run']}/{name}"}
                for name in variables["files"]
            ]
            data = {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
        elif "RunResumeStatus" in text:
            name = variables.get("name")
            bucket = self.server.runs[name].resume_status(name) if name in self.server.runs else None
            data = {"model": {"id": "p", "name": "flowers", "entity": {"id": "e", "name": "me"}, "bucket": bucket}}
        elif "ServerFeatures" in text:
            data = {"serverInfo": {"features": []}}
        elif "query ArtifactType(" in text:
            collection = variables["name"].partition(":")[0]
            kind = self.server.artifact_types.get(collection)
            data = {"project": {"artifact": kind and {"artifactType": {"name": kind}}}}
        elif "createArtifact(" in text:
            artifact = {"id": "a", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            data = {"createArtifact": {"artifact": artifact}}
        elif "createArtifactManifest(" in text:
            file = {
                "id": "f",
                "uploadUrl": f"{self.server.url}/put/artifacts/manifests/{variables['digest']}",
                "uploadHeaders": [],
            }
            data = {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        elif "createArtifactFiles(" in text:
            nodes = [
                {
                    "storagePath": file["name"],
                    "uploadUrl": f"{self.server.url}/put/artifacts/{file['name']}",
                    "uploadHeaders": [],
                    "artifact": {"id": "a"},
                }
                for file in variables["input"]["artifactFiles"]
            ]
            data = {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        elif "commitArtifact(" in text:
            data = {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        elif "upsertView" in text:
            data = {"upsertView": self._save_view(variables)}
        elif "allViews" in text:
            edges = [{"node": view} for view in self.server.views or []]
            data = {"project": None if self.server.views is None else {"allViews": {"edges": edges}}}
        elif "viewer" in text:
            data = {"viewer": {"id": "v", "entity": "me", "username": "me"}}
        return {"data": data} if query else {}

    def _save_view(self, variables: dict[str, Any]) -> dict[str, Any]:
        """Replace the view with this id, or add one if no id is given, as W&B's API documents it."""
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
    """Read the records of the one `.wandb` file in a run's directory: seven bytes, then LevelDB's log format."""
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
        if kind in (1, 4):  # a whole record, or the last part of a record
            records.append(Record.FromString(parts))
            parts = b""
    return records
