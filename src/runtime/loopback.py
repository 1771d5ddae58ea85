"""An HTTP server on the loopback interface, for pages of this machine.

Handlers have to refuse a request whose Host header is not in `hosts`: another site could otherwise read the answers by
DNS rebinding.
"""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = "127.0.0.1"


class LoopbackServer(ThreadingHTTPServer):
    """A server that is reached from this machine alone."""

    daemon_threads = True
    name = "server"
    """Begins the lines that report errors."""

    def __init__(self, port: int | None, handler: type[BaseHTTPRequestHandler]) -> None:
        """port: None for a free one. Raises: OSError if it is in use."""
        super().__init__((LOOPBACK, port or 0), handler)
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that has closed its connection; report other errors in one line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            print(f"{self.name}: {type(error).__name__}: {error}", file=sys.stderr)
