"""Local servers in place of buckets. They count requests, and can delay, refuse or damage the answers."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from werkzeug.serving import WSGIRequestHandler, make_server

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


class Server:
    """A WSGI application, served by threads.

    requests: how many requests have been answered.
    latency: seconds before each answer.
    refusals: how many of the next requests get `status` and an empty body.
    damage: how many of the next answers to a range request have a flipped bit.
    """

    def __init__(self, application: Application) -> None:
        self.application = application
        self.requests = self.refusals = self.damage = 0
        self.latency = 0.0
        self.status = "503 Service Unavailable"
        self._lock = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        time.sleep(self.latency)
        with self._lock:
            self.requests += 1
            refused = self.refusals > 0
            self.refusals -= refused
            damaged = self.damage > 0 and "HTTP_RANGE" in environ
            self.damage -= damaged
        if refused:
            start(self.status, [("Content-Length", "0")])
            return [b""]
        answer = self.application(environ, start)
        return [flip_bit(b"".join(answer))] if damaged else answer


def flip_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def directory(root: Path) -> Application:
    """Return an application that serves a directory: lists of links, files, and ranges of files."""

    def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = root / environ["PATH_INFO"].strip("/")
        if path.is_dir():
            links = "".join(
                f'<a href="{environ["PATH_INFO"].rstrip("/")}/{child.name}">.</a>' for child in path.iterdir()
            )
            start("200 OK", [("Content-Type", "text/html"), ("Content-Length", str(len(links)))])
            return [links.encode()]
        if not path.is_file():
            start("404 Not Found", [("Content-Length", "0")])
            return [b""]
        data = path.read_bytes()
        headers = [("ETag", f'"{path.stat().st_mtime_ns}"'), ("Accept-Ranges", "bytes")]
        status = "200 OK"
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", environ.get("HTTP_RANGE", "")):
            data, status = data[int(wanted[1]) : int(wanted[2]) + 1], "206 Partial Content"
        start(status, [*headers, ("Content-Length", str(len(data)))])
        return [b""] if environ["REQUEST_METHOD"] == "HEAD" else [data]

    return application
