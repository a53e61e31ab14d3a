"""A proxy on the loopback address that counts requests, and spoils some of the answers."""

from __future__ import annotations

import http.client
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = ("stalled", "slow", "reset", "cut", "short", "wrong", "busy")


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server.

    Attributes:
        gets: How often each file name was asked for.
        faults: File name to what happens to its next answers, one after another, of `FAULTS`.
        half: Set when a `stalled` answer has sent its first half.
    """

    daemon_threads = True

    def __init__(self, port: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port = port
        self.gets: Counter[str] = Counter()
        self.faults: dict[str, list[str]] = {}
        self.half, self.closing, self.turn = threading.Event(), threading.Event(), threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """Clients that are killed or give up are what is tested."""

    def next_fault(self, name: str) -> str | None:
        with self.turn:
            self.gets[name] += 1
            left = self.faults.get(name, [])
            return left.pop(0) if left else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:  # the name that http.server calls
        self._answer(*self._asked(), send=False)

    def do_PUT(self) -> None:
        self._answer(*self._asked())

    do_POST = do_DELETE = do_PUT  # noqa: N815

    def do_GET(self) -> None:
        status, headers, body = self._asked()
        fault = self.server.next_fault(self.path.partition("?")[0].rsplit("/", 1)[-1])
        half = body[: len(body) // 2]
        if fault is None:
            self._answer(status, headers, body)
        elif fault == "wrong":
            # S3 has checksums of its own, which other servers have not.
            headers = {name: value for name, value in headers.items() if not name.startswith("x-amz-checksum")}
            self._answer(status, headers, half + bytes([body[len(half)] ^ 1]) + body[len(half) + 1 :])
        elif fault == "short":  # a whole answer of half the bytes
            self._answer(status, {**headers, "Content-Length": str(len(half))}, half)
        elif fault == "busy":
            text = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
            self._answer(503, {"Content-Type": "application/xml", "Content-Length": str(len(text))}, text)
        elif fault == "slow":
            self._answer(status, headers, b"")
            for start in range(0, len(body), 1 << 14):
                self.wfile.write(body[start : start + (1 << 14)])
                self.server.closing.wait(0.01)
        else:
            self._answer(status, headers, half)
            self.close_connection = True
            if fault == "stalled":
                self.server.half.set()
                self.server.closing.wait()
            elif fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                os.close(self.connection.detach())
            else:
                assert fault == "cut", fault
                self.connection.shutdown(socket.SHUT_RDWR)

    def _asked(self) -> tuple[int, dict[str, str], bytes]:
        there = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        there.request(self.command, self.path, sent or None, headers=dict(self.headers))
        answer = there.getresponse()
        body = answer.read()
        there.close()
        kept = {name: value for name, value in answer.getheaders() if name not in ("Connection", "Transfer-Encoding")}
        return answer.status, kept, body

    def _answer(self, status: int, headers: dict[str, str], body: bytes, *, send: bool = True) -> None:
        self.send_response_only(status)
        if send and "Content-Length" not in headers:
            headers = {**headers, "Content-Length": str(len(body))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if send:
            self.wfile.write(body)
        self.wfile.flush()


@contextmanager
def serving(port: int) -> Iterator[Proxy]:
    """A proxy of the server on that port."""
    proxy = Proxy(port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.closing.set()
        proxy.shutdown()
        thread.join()
        proxy.server_close()
