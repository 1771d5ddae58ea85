"""`python -m src.serve run=DIR port=8000`: a model for other programs, and a page to type in.

`POST /v1/completions` is that of OpenAI's interface, as far as a base model has it: prompt (texts or tokens),
max_tokens, temperature, top_k, seed, n, stop, stream, stream_options, echo and logprobs. The server listens on the
loopback interface and computes one request at a time. It refuses a Host header that is not its own address, bodies and
texts beyond its limits, and, if `key` is set, requests without it.
"""

import hmac
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.command import run_cli, run_command
from src.config.checks import check_settings
from src.config.schema import ServeConfig, UserError
from src.runtime.loopback import LoopbackServer

if TYPE_CHECKING:
    from src.inference.completions import Completions

RAW = ("run", "key")
PAGE = Path(__file__).parent / "inference" / "assets" / "serve.html"
MAX_BODY = 1 << 20
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'"


def serve(config: ServeConfig) -> int:
    """Serve until Ctrl-C."""
    check_settings(config)
    if config.key == "":  # as from a variable that is not set; every client would send it
        raise UserError("key: is empty; give a text, or leave it out to need none")

    from src.inference.completions import Completions
    from src.runs.open_model import open_text_model

    model = open_text_model(config.run, config.device, config.threads)
    try:
        server = ModelServer(Completions(model, model.run.name, config.max_new_tokens, config.max_seconds), config)
    except OSError as error:
        raise UserError(f"port={config.port}: {error.strerror or error}; leave it out for a free one") from None
    print(f"Page: {server.address}\nCompletions: {server.address}v1/completions (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nThe server has ended")
    finally:
        server.server_close()
    return 0


class ModelServer(LoopbackServer):
    name = "serve"

    def __init__(self, completions: "Completions", config: ServeConfig) -> None:
        super().__init__(config.port, _Handler)
        self.completions, self.key = completions, config.key
        self.lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer
    timeout = 60
    """Seconds that a client may take to send its request."""

    def do_GET(self) -> None:
        """Send the page, or the list of models."""
        if not self._is_own_host():
            return
        if self.path == "/":
            self._send(200, "text/html; charset=utf-8", PAGE.read_bytes())
        elif self.path == "/v1/models":
            name = self.server.completions.name
            self._send_json(200, {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "local"}]})
        else:
            self._send_error(404, f"{self.path}: no such path; there are /v1/completions and /v1/models")

    def do_POST(self) -> None:
        """Answer a request for a completion."""
        if not self._is_own_host():
            return
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.key is not None and not hmac.compare_digest(given.encode(), self.server.key.encode()):
            self._send_error(401, "wrong or missing key")
            return
        if self.path != "/v1/completions":
            self._send_error(404, f"{self.path}: no such path; this is a base model, it has /v1/completions alone")
            return
        if self.headers.get_content_type() != "application/json":  # other sites can send only simpler types
            self._send_error(415, "the request must have Content-Type: application/json")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            self._send_error(413, f"the request must have a Content-Length of at most {MAX_BODY} bytes")
            return
        try:
            question = self.server.completions.check(json.loads(self.rfile.read(int(length))))
        except (UserError, ValueError, RecursionError) as error:
            self._send_error(400, str(error) if isinstance(error, UserError) else "the request is not JSON")
            return
        with self.server.lock:
            if question.is_streamed:
                self._stream(self.server.completions.stream(question))
                return
            try:
                answer = self.server.completions.answer(question)
            except Exception:
                self._send_error(500, "an error in the model server, not in the request; its terminal has it")
                raise
        self._send_json(200, answer)

    def _is_own_host(self) -> bool:
        if self.headers.get("Host") in self.server.hosts:
            return True
        self._send_error(403, "wrong host")
        return False

    def _stream(self, chunks: Iterator[dict[str, Any]]) -> None:
        self._begin(200, "text/event-stream", {"Connection": "close"})
        for chunk in chunks:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
            self.wfile.flush()
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _send_error(self, status: int, message: str) -> None:
        kind = "server_error" if status == 500 else "invalid_request_error"
        self._send_json(status, {"error": {"message": message, "type": kind, "code": status}})

    def _send_json(self, status: int, value: dict[str, Any]) -> None:
        self._send(status, "application/json", json.dumps(value).encode())

    def _send(self, status: int, kind: str, content: bytes) -> None:
        self._begin(status, kind, {"Content-Length": str(len(content))})
        self.wfile.write(content)

    def _begin(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        standing = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": POLICY}
        for name, value in {"Content-Type": kind, **standing, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        """Print a line for each answer, without what was asked."""
        print(f"{time.strftime('%H:%M:%S')} {self.command} {self.path.partition('?')[0]!a} {int(code)}", flush=True)

    def log_error(self, format: str, *args: Any) -> None:
        """Log nothing: answers have their line."""


def main(argv: list[str]) -> int:
    return run_command("serve", ServeConfig, serve, argv, RAW)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
