"""A small file server on 127.0.0.1 that misbehaves on request.

Loaded by path from the conftest files that offer it as a fixture. It serves
byte strings with Range, If-Range, ETag and HEAD as a good server would; faults
are queued and used up by GET requests, one each.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise

#: Longest time that a held answer is held.
HOLD_S = 30.0
#: A test that asks more often than this has run wild.
MOST_REQUESTS = 300
BLOCK = 1 << 16


@dataclass(frozen=True)
class Fault:
    """How one GET request is answered; the default is a good answer."""

    status: int | None = None  # this status with a short text instead of the file
    headers: dict[str, str | None] = field(default_factory=dict)  # set, or with None leave out
    cut_after: int | None = None  # send so many bytes of the body, then close
    reset: bool = False  # ... by a reset instead of an orderly end
    ignore_range: bool = False  # send all of it with 200
    ignore_if_range: bool = False  # send a part although the file changed
    body: bytes | None = None  # send this instead
    hold_at: int | None = None  # send so many bytes of the body, then the rest when released
    chunked: bool = False  # no Content-Length


@dataclass
class Seen:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]


class FaultyServer:
    """Files, queued faults and the requests seen so far."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str | None] = {}
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.head_status = 200
        self.head_length: int | None = None
        self.seen: list[Seen] = []
        self.lock = threading.Lock()
        self.released = threading.Event()
        handler = type("Handler", (_Handler,), {"owner": self})
        self.server = _Server(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Address without a final slash."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def put(self, name: str, body: bytes, *, etag: str | None = "md5") -> str:
        """Serve ``body`` as ``/name`` and return its URL; the ETag is the MD5 unless another is given."""
        self.files[f"/{name}"] = body
        self.etags[f"/{name}"] = f'"{hashlib.md5(body).hexdigest()}"' if etag == "md5" else etag
        return f"{self.url}/{name}"

    def gets(self) -> list[Seen]:
        """GET requests seen."""
        return [request for request in self.seen if request.method == "GET"]

    def next_fault(self) -> Fault:
        """Take the fault for the GET request that has just come in."""
        with self.lock:
            return self.faults.pop(0) if self.faults else self.always or Fault()


@contextlib.contextmanager
def running() -> Iterator[FaultyServer]:
    """Run a server for the length of the block."""
    owner = FaultyServer()
    owner.thread.start()
    try:
        yield owner
    finally:
        owner.released.set()
        owner.server.shutdown()
        owner.server.server_close()
        owner.thread.join(timeout=10)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed and resets that we send are what the tests are about."""
        if not isinstance(sys.exception(), ConnectionError | ValueError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: FaultyServer
    timeout = 20

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if not self._note():
            return
        body = self.owner.files.get(self.path)
        status = 404 if body is None else self.owner.head_status
        self.send_response(status)
        if status == 200 and body is not None:
            length = len(body) if self.owner.head_length is None else self.owner.head_length
            self.send_header("Content-Length", str(length))
            if self.owner.etags[self.path]:
                self.send_header("ETag", self.owner.etags[self.path])
        else:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        if not self._note():
            return
        fault = self.owner.next_fault()
        body = self.owner.files.get(self.path)
        if fault.status is not None or body is None:
            self._send(fault, fault.status or 404, b"no\n", {})
            return
        etag = self.owner.etags[self.path]
        body = body if fault.body is None else fault.body
        headers = {"ETag": etag, "Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes"}
        first = self._first_byte()
        unchanged = self.headers.get("If-Range", etag) == etag or fault.ignore_if_range
        if first is None or fault.ignore_range or not unchanged:
            self._send(fault, 200, body, headers)
        elif first >= len(body):
            self._send(fault, 416, b"", {"Content-Range": f"bytes */{len(body)}"})
        else:
            span = f"bytes {first}-{len(body) - 1}/{len(body)}"
            self._send(fault, 206, body[first:], {**headers, "Content-Range": span})

    def _note(self) -> bool:
        with self.owner.lock:
            self.owner.seen.append(Seen(self.command, self.path, dict(self.headers)))
            if len(self.owner.seen) <= MOST_REQUESTS:
                return True
        self.send_error(500, "too many requests for a test")
        return False

    def _first_byte(self) -> int | None:
        text = self.headers.get("Range")
        return int(text.removeprefix("bytes=").split("-")[0]) if text else None

    def _send(self, fault: Fault, status: int, body: bytes, headers: dict[str, str | None]) -> None:
        length = {"Transfer-Encoding": "chunked"} if fault.chunked else {"Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in {**length, **headers, **fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self._send_body(fault, body)

    def _send_body(self, fault: Fault, body: bytes) -> None:
        end = len(body) if fault.cut_after is None else min(len(body), fault.cut_after)
        edges = sorted({*range(0, end, BLOCK), end, min(end, fault.hold_at or end)})
        for start, stop in pairwise(edges):
            if start == fault.hold_at:
                self.owner.released.wait(HOLD_S)
            block = body[start:stop]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(block), block) if fault.chunked else block)
        if fault.cut_after is not None:
            self.close_connection = True
            if fault.reset:
                # Closing with this option set sends a reset instead of an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        elif fault.chunked:
            self.wfile.write(b"0\r\n\r\n")
