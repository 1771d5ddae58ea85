"""A Hugging Face hub on loopback for tests of downloads, with the responses of the real hub and many failures.

As on the real hub, the URL of a file returns its commit and hash and redirects to a file store on another host, which
supports ranges.
"""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

REPO = "somebody/stories"
REVISION = "0123456789abcdef0123456789abcdef01234567"


class Request(NamedTuple):
    method: str
    path: str
    range: str | None
    authorization: str | None


class FakeHub:
    """The files of the hub, the requests that it received, and its failures."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.store = f"http://localhost:{port}/store/"
        self.files: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.cuts: list[int] = []
        """Bytes that the next responses of the store send before the connection is closed."""
        self.stall_after: int | None = None
        """Bytes after which the store stops sending but keeps the connection open."""
        self.error: tuple[int, str | None] | None = None
        """Status and X-Error-Code of every page."""
        self.hub_page: bytes | None = None
        self.store_page: bytes | None = None
        """Response of a proxy instead of the hub, or instead of the store alone."""
        self.endless = False
        """Whether the store sends endless responses without a length."""
        self.announced: int | None = None
        """The size that the hub announces, if not the true one."""
        self.sent = 0
        """Bytes of endless responses that were sent."""
        self.lfs = True
        """Whether the hash that the hub announces is the sha256 of the file."""
        self.released = threading.Event()

    def add(self, name: str, content: bytes) -> str:
        """Add a file and return its sha256."""
        self.files[name] = content
        return hashlib.sha256(content).hexdigest()

    def ranges(self) -> list[str | None]:
        """Return the ranges that were requested from the store."""
        return [request.range for request in self.requests if request.method == "GET" and "/store/" in request.path]


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.hub
        hub.requests.append(Request(self.command, self.path, self.headers["Range"], self.headers["Authorization"]))
        if hub.hub_page is not None:
            self._send(200, {}, hub.hub_page if body else None, len(hub.hub_page))
        elif self.path.startswith("/store/"):
            self._send_file(hub.files[self.path.removeprefix("/store/")])
        elif hub.error is not None:
            self._send(hub.error[0], {"X-Error-Code": hub.error[1]} if hub.error[1] else {}, b"")
        else:
            name = self.path.removeprefix(f"/datasets/{REPO}/resolve/{REVISION}/")
            content = hub.files[name]
            etag = hashlib.sha256(content).hexdigest() if hub.lfs else hashlib.sha1(content).hexdigest()
            size = len(content) if hub.announced is None else hub.announced
            headers = {"X-Repo-Commit": REVISION, "X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(size)}
            self._send(302, {**headers, "Location": hub.store + name}, b"")

    def _send_file(self, content: bytes) -> None:
        hub = self.hub
        if hub.store_page is not None:
            self._send(200, {}, hub.store_page)
            return
        if hub.endless:
            self._send_without_end(content)
            return
        found = re.fullmatch(r"bytes=(\d+)-", self.headers["Range"] or "")
        start = int(found[1]) if found else 0
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if found else {}
        part = content[start:]
        limit = hub.cuts.pop(0) if hub.cuts else hub.stall_after
        self._send(206 if found else 200, headers, part[:limit], len(part))
        if hub.stall_after is not None:
            hub.released.wait(60)

    def _send_without_end(self, content: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            while not self.hub.released.is_set() and self.hub.sent < 10**9:
                self.hub.sent += self.wfile.write(content or b"x")
        self.close_connection = True

    def _send(self, status: int, headers: dict[str, str], body: bytes | None, length: int | None = None) -> None:
        """Send a response; the connection closes afterwards, so one shorter than `length` is truncated."""
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body or b"") if length is None else length)}.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command == "GET":
            with suppress(ConnectionError):  # the client was killed
                self.wfile.write(body)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve a hub on loopback."""

    class Handler(_Handler):
        """A handler for this hub alone, so that two hubs can run at the same time."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.hub = FakeHub(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Handler.hub
    finally:
        Handler.hub.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
