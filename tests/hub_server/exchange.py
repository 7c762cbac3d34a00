"""One HTTP/1.1 exchange: reads a request, lets the Hub answer it, and injects the faults."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.hub_server.answers import Answer, ApiError, FileSlice
from tests.hub_server.faults import Fault, FaultRules
from tests.hub_server.log import Logged, Origin, RequestLog

BLOCK = 1 << 18


class Dropped(Exception):
    """The connection is gone; nothing more is sent."""


class Body:
    """The body of a request, read when it is asked for; plain or chunked."""

    def __init__(self, file: BufferedIOBase, headers: Message, entry: Logged) -> None:
        self._file = file
        self._entry = entry
        self._chunked = "chunked" in headers.get("Transfer-Encoding", "").lower()
        self._left = int(headers.get("Content-Length") or 0)
        self._finished = not self._chunked and self._left == 0

    def stream(self, limit: int | None = None) -> Iterator[bytes]:
        """Blocks as they come, at most `limit` bytes; Dropped when the client stops early."""
        while not self._finished and (limit is None or limit > 0):
            if self._chunked and self._left == 0 and not self._next_chunk():
                return
            block = self._file.read(min(self._left, BLOCK if limit is None else min(limit, BLOCK)))
            if not block:
                raise Dropped
            self._left -= len(block)
            self._entry.request_bytes += len(block)
            if limit is not None:
                limit -= len(block)
            if self._left == 0:
                if self._chunked:
                    self._file.readline()
                else:
                    self._finished = True
            yield block

    def _next_chunk(self) -> bool:
        header = self._file.readline()
        if not header:
            raise Dropped
        self._left = int(header.split(b";")[0], 16)
        if self._left == 0:
            while self._file.readline().strip():
                pass
            self._finished = True
        return not self._finished

    def read(self) -> bytes:
        return b"".join(self.stream())

    def drain(self) -> None:
        for _ in self.stream():
            pass

    def json(self) -> Any:
        """The body as JSON; 400 when it is not."""
        try:
            return json.loads(self.read() or b"null")
        except ValueError as error:
            raise ApiError(400, f"Invalid JSON: {error}") from error


@dataclass(slots=True, kw_only=True)
class Request:
    """What a route sees. Paths stay percent-encoded: `refs%2Fpr%2F1` is one segment."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: Body

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[-1].lower() in ("1", "true")

    def number(self, name: str, default: int) -> int:
        try:
            return int(self.query.get(name, [str(default)])[-1])
        except ValueError as error:
            raise ApiError(400, f"{name} must be a number") from error

    @property
    def token(self) -> str | None:
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        return value.strip() if kind.lower() == "bearer" and value.strip() else None


Respond = Callable[[Request], Answer]


class Listener(ThreadingHTTPServer):
    """One origin: a port, its routes, and the open connections, so that stopping closes them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        *,
        port: int,
        origin: Origin,
        respond: Respond,
        log: RequestLog,
        faults: FaultRules,
        crashes: list[str],
    ) -> None:
        self.origin: Origin = origin
        self.respond = respond
        self.log = log
        self.faults = faults
        self.crashes = crashes
        self.open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), Exchange)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def close_connections(self) -> None:
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections end in all sorts of ways here; anything else is a bug of this server."""
        if not isinstance(sys.exc_info()[1], OSError):
            self.crashes.append(traceback.format_exc())


class Exchange(BaseHTTPRequestHandler):
    """Serves one connection, request after request."""

    server: Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 0

    def setup(self) -> None:
        super().setup()
        self.server.open.add(self.connection)

    def finish(self) -> None:
        self.server.open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """The request log has it all."""

    def serve(self) -> None:
        if self.path.startswith("/__"):
            self._serve_untracked()
            return
        entry = self.server.log.begin(
            origin=self.server.origin,
            method=self.command,
            path=self.path,
            range=self.headers.get("Range"),
            user_agent=self.headers.get("User-Agent", ""),
            authorized="Authorization" in self.headers,
        )
        try:
            self._exchange(self._request(entry), entry, self.server.faults.take(entry))
        except (Dropped, ConnectionError, TimeoutError):
            self.close_connection = True
        finally:
            self.server.log.end(entry)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def _serve_untracked(self) -> None:
        """A request that looks at the log leaves no trace in it."""
        unseen = Logged(
            number=0,
            origin=self.server.origin,
            method=self.command,
            path=self.path,
            range=None,
            user_agent="",
            authorized=False,
        )
        self._exchange(self._request(unseen), unseen, None)

    def _request(self, entry: Logged) -> Request:
        parts = urlsplit(self.path)
        return Request(
            method=self.command,
            path=parts.path,
            query=parse_qs(parts.query, keep_blank_values=True),
            headers=self.headers,
            body=Body(self.rfile, self.headers, entry),
        )

    def _exchange(self, request: Request, entry: Logged, fault: Fault | None) -> None:
        if fault is None:
            answer = self._respond(request)
            request.body.drain()
            self._send(answer, entry, None)
            return
        if fault.drop is not None and fault.moment == "request":
            for _ in request.body.stream(fault.at):
                pass
            self._drop(fault)
        if fault.stall and fault.moment != "body":
            time.sleep(fault.stall)
        if fault.status is not None:
            if fault.applied:
                self._respond(request)
            request.body.drain()
            headers = {"Content-Type": "application/json", **fault.headers}
            answer = Answer(status=fault.status, headers=headers, body=fault.body)
            self._send(answer, entry, None)
            return
        if fault.drop is not None and fault.moment == "before":
            request.body.drain()
            self._drop(fault)
        answer = self._respond(request)
        request.body.drain()
        if fault.drop is not None and fault.moment == "after":
            self._drop(fault)
        self._send(answer, entry, fault)

    def _respond(self, request: Request) -> Answer:
        try:
            return self.server.respond(request)
        except ApiError as error:
            return error.answer()
        except (Dropped, ConnectionError):
            raise
        except Exception:
            self.server.crashes.append(f"{self.command} {self.path}\n{traceback.format_exc()}")
            return Answer.json({"error": "The loopback Hub itself failed, see crashes"}, status=500)

    def _drop(self, fault: Fault) -> None:
        """FIN lets the client read what was sent; RST throws it away."""
        self.close_connection = True
        if fault.drop == "rst":
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.rfile.close()
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_WR)
            # Closing with unread bytes in the buffer would send RST after all.
            self.connection.settimeout(2)
            with contextlib.suppress(OSError):
                while self.connection.recv(BLOCK):
                    pass
        raise Dropped

    def _send(self, answer: Answer, entry: Logged, fault: Fault | None) -> None:
        body = answer.body
        length = len(body)
        if fault is not None and fault.truncate is not None and answer.status < 300:
            length = min(length, max(0, fault.truncate - answer.offset))
        entry.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, re.sub(r"[\r\n]+", " ", value))
        self.send_header("Content-Length", str(length))
        headers = b"".join(self._headers_buffer) + b"\r\n"
        self._headers_buffer: list[bytes] = []
        if self.command == "HEAD":
            self.connection.sendall(headers)
        elif isinstance(body, bytes) and fault is None:
            self.connection.sendall(headers + body[:length])
            entry.response_bytes += length
        else:
            self.connection.sendall(headers)
            self._send_body(body, length, answer.offset, entry, fault)

    def _send_body(
        self, body: bytes | FileSlice, length: int, offset: int, entry: Logged, fault: Fault | None
    ) -> None:
        """Block by block; `sent` positions count from the start of this answer's body."""
        breaks_at = fault.at if fault is not None and fault.moment == "body" else None
        sent = 0
        for block in _blocks(body, length, breaks_at):
            if sent == breaks_at and fault is not None:
                self._break(fault)
            if fault is not None and fault.flip is not None:
                block = _flipped(block, fault.flip - offset - sent)
            self.connection.sendall(block)
            sent += len(block)
            entry.response_bytes += len(block)
            if fault is not None and fault.pace is not None:
                time.sleep(len(block) / fault.pace)
        if breaks_at is not None and sent <= breaks_at and fault is not None:
            self._break(fault)

    def _break(self, fault: Fault) -> None:
        if fault.stall:
            time.sleep(fault.stall)
        if fault.drop is not None:
            self._drop(fault)


def _blocks(body: bytes | FileSlice, length: int, breaks_at: int | None) -> Iterator[bytes]:
    """The body in blocks, with a block boundary at `breaks_at`."""
    edges = list(range(0, length, BLOCK))
    if breaks_at is not None and 0 < breaks_at < length:
        edges = sorted({*edges, breaks_at})
    edges.append(length)
    with contextlib.ExitStack() as stack:
        if isinstance(body, bytes):
            for start, stop in itertools.pairwise(edges):
                yield body[start:stop]
            return
        file = stack.enter_context(body.path.open("rb"))
        file.seek(body.start)
        for start, stop in itertools.pairwise(edges):
            yield file.read(stop - start)


def _flipped(block: bytes, position: int) -> bytes:
    if not 0 <= position < len(block):
        return block
    changed = bytearray(block)
    changed[position] ^= 0x01
    return bytes(changed)
