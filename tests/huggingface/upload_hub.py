"""A Hugging Face hub on loopback that takes uploads, with the routes and answers of the real one, and its refusals."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REPO = "somebody/my-model"


class UploadHub:
    """What the hub received, and what it refuses."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"http://127.0.0.1:{port}"
        self.requests: list[str] = []
        self.tokens: set[str | None] = set()
        self.created: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        """Large files by their SHA-256."""
        self.commits: list[dict[str, bytes]] = []
        """The files of each commit."""
        self.refusals: dict[str, tuple[int, str]] = {}
        """Status and message, by the last part of a route."""


class _Handler(BaseHTTPRequestHandler):
    hub: UploadHub

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        hub, path = self.hub, self.path
        content = self._read_body()
        hub.requests.append(f"POST {path}")
        hub.tokens.add(self.headers["Authorization"])
        for route, (status, message) in hub.refusals.items():
            if path.endswith(route):
                self._send(status, {"error": message})
                return
        match path.removeprefix(f"/api/models/{REPO}"):
            case "/api/repos/create":
                hub.created.append(json.loads(content))
                self._send(200, {"url": f"{hub.endpoint}/{REPO}"})
            case "/api/validate-yaml":
                self._send(200, {"warnings": [], "errors": []})
            case "/preupload/main":
                self._send(200, {"files": [_mode(file) for file in json.loads(content)["files"]]})
            case "/commit/main":
                hub.commits.append(self._committed(content))
                self._send(200, {"commitUrl": f"{hub.endpoint}/{REPO}/commit/1", "commitOid": "1" * 40})
            case _ if path == f"/{REPO}.git/info/lfs/objects/batch":
                wanted = [self._action(item) for item in json.loads(content)["objects"]]
                self._send(200, {"transfer": "basic", "objects": wanted})
            case _:
                self._send(404, {"error": path})

    def do_PUT(self) -> None:
        self.hub.requests.append("PUT")
        self.hub.objects[self.path.rsplit("/", 1)[1]] = self._read_body()
        self._send(200, {})

    def _read_body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        parts: list[bytes] = []
        while length := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(length))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _action(self, item: dict[str, Any]) -> dict[str, Any]:
        return {**item, "actions": {"upload": {"href": f"{self.hub.endpoint}/store/{item['oid']}"}}}

    def _committed(self, content: bytes) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        return files

    def _send(self, status: int, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Type": "application/json", "Content-Length": str(len(content))}.items():
            self.send_header(name, text)
        if "error" in value:
            self.send_header("X-Error-Message", value["error"])
        self.end_headers()
        self.wfile.write(content)


def _mode(file: dict[str, Any]) -> dict[str, Any]:
    is_large = file["path"].endswith(".safetensors")
    return {"path": file["path"], "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}


@contextmanager
def upload_hub() -> Iterator[UploadHub]:
    """Serve a hub on loopback."""

    class Handler(_Handler):
        """A handler for this hub alone."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.hub = UploadHub(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Handler.hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
