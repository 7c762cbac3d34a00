"""A bucket on this machine: moto's server, and a proxy before it that fails as servers do."""

from __future__ import annotations

import http.client
import logging
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from actstore.ingestion.memory import write
from actstore.remote import bucket as buckets
from actstore.remote.client import Patience
from actstore.remote.working import working

SOON = Patience(attempts=6, first=0.002, most=0.02, silence=1.0)


@contextmanager
def moto() -> Iterator[str]:
    """Run moto's server; give its address."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def variables(endpoint: str) -> dict[str, str]:
    """The variables by which stores are looked for at an endpoint."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_REGION": "us-east-1",
    }


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Let stores be looked for at an endpoint, and nothing else of the user's be read."""
    for name, value in variables(endpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setattr(buckets, "PATIENCE", SOON)
    monkeypatch.setattr("actstore.remote.working._LONGEST_WAIT", 0.02)


def ask(endpoint: str, method: str, path: str) -> bytes:
    """Make one request of S3 without a signature, which moto does not look at."""
    host = endpoint.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    found = answer.read()
    connection.close()
    assert answer.status < 300, (method, path, answer.status, found)
    return found


def put_rows(place: Any, first: int, rows: int = 3, *, layer: int = 0, seed: int = 0) -> None:
    """Write some rows, ``e0``, ``e1``, … from ``first`` on, whose vectors follow from these."""
    names = [f"e{number}" for number in range(first, first + rows)]
    vectors = np.array([vector(number, layer, seed) for number in range(first, first + rows)])
    with working(place) as root:
        write(root, {("resid_post", layer): vectors}, {"example_id": names}, model="m")


def vector(number: int, layer: int = 0, seed: int = 0) -> np.ndarray:
    """Return the vector of one example."""
    return np.random.default_rng([number, layer, seed]).normal(size=8).astype(np.float32)


class Proxy:
    """Passes requests on to a server, and fails at one of them in a chosen way.

    ``before`` answers instead of the server; ``after`` lets it do the work first.
    """

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.seen: list[str] = []
        self.headers: dict[str, str] = {}
        """Of the latest request."""
        self.up = self.down = 0
        """Bytes of bodies that came from clients, and that went to them."""
        self.fault: str | None = None
        self.at = -1
        self.stays = False
        """Whether all requests after that one fail too."""
        self.no_lists = False
        """Whether what is not there is refused, as to somebody who may not list."""
        self.without: str | None = None
        """A header that the server is not told."""
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def fail(self, fault: str | None, at: int = -1) -> None:
        """Fail in that way at request ``at``, counted from now."""
        with self._lock:
            self.seen.clear()
            self.fault, self.at = fault, at

    def due(self, text: str) -> str | None:
        """Count a request; return how to fail at it."""
        with self._lock:
            self.seen.append(text)
            now = len(self.seen) - 1
            return self.fault if now == self.at or (self.stays and now > self.at) else None

    def moved(self, up: int, down: int) -> None:
        """Count bytes of bodies."""
        with self._lock:
            self.up += up
            self.down += down

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Proxy

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.owner.due(f"{self.command} {self.path}")
        if fault in ("500", "503", "409", "403"):
            return self._answer(int(fault), b"<Error><Code>SlowDown</Code></Error>")
        if fault == "reset":
            return self._break()
        status, headers, content = self._passed_on(body)
        self.owner.moved(len(body), 0 if self.command == "HEAD" else len(content))
        if status == 404 and self.owner.no_lists:
            return self._answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        if fault == "lost":
            return self._break()
        if fault == "500 after":
            return self._answer(500, b"<Error><Code>InternalError</Code></Error>")
        if fault == "cut":  # half a body, or no answer where there is none
            return self._cut(status, headers, content)
        if fault == "silent":  # longer than anybody waits
            threading.Event().wait(1.5 * SOON.silence)
            return self._break()
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding", "date"):
                self.send_header(name, value)
        length = dict(headers).get("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return None

    def _passed_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.owner.target, timeout=30)
        without = (self.owner.without or "").lower()
        try:
            headers = {
                name: value for name, value in self.headers.items() if name.lower() != without
            }
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else content)

    def _cut(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        if len(content) > 1:
            self.send_response(status)
            for name, value in headers:
                if name.lower() in ("etag", "content-range", "last-modified", "content-type"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        self._break()

    def _break(self) -> None:
        """Reset the connection."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _do
