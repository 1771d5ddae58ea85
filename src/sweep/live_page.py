"""Serve a page on the loopback interface that follows a sweep: jobs, curves, time left and errors.

The page asks for JSON every few seconds. Once all jobs have ended and the report is written, the server sends the
report instead. It answers four fixed paths, so no part of a request reaches the file system.
"""

import json
import os
import sys
import threading
import time
import webbrowser
from html import escape
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from src.config.schema import UserError
from src.reporting.data.metrics_file import read_metrics
from src.reporting.data.problems import Problems
from src.reporting.data.runs import load_runs
from src.reporting.output.html_page import chart_element, chart_values, write_document
from src.reporting.plots.chart import Chart
from src.reporting.plots.charts import build_charts
from src.runtime.loopback import LoopbackServer
from src.sweep.job_store import JobStore
from src.sweep.progress import COLUMNS, SweepProgress, read_sweep, show_cells, show_totals

ASSETS = Path(__file__).parent / "assets"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"
)
POINTS = 2000
"""Points of all curves together."""
LEAST_AGE_S = 5.0
"""How long charts are sent again before they are built again; longer where that takes long."""
AGE_FACTOR = 5


def serve_sweep(directory: Path, port: int | None) -> int:
    """Serve the page until Ctrl-C, and return the exit status.

    port: None for a free one. Raises: UserError if there is no sweep or the port is in use.
    """
    store = JobStore(directory)
    if not (directory / "sweep.json").is_file():
        raise UserError(
            f"dir={directory}: serve=true follows a sweep; give a folder of outputs/sweeps or outputs/tuning"
        )
    store.jobs()  # a damaged sweep.json is an error before anything is served
    try:
        server = LiveServer(store, port)
    except OSError as error:
        raise UserError(f"port={port}: {error.strerror or error}; leave it out for a free one") from None
    try:
        print(f"Live page: {server.address} (Ctrl-C ends it; the sweep goes on)", flush=True)
        if _has_display():
            webbrowser.open(server.address)
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nThe live page has ended")
    finally:
        server.server_close()
    return 0


def _has_display() -> bool:
    """Return whether a browser can be shown to the user of this terminal."""
    if not sys.stdout.isatty() or "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


class LiveServer(LoopbackServer):
    """Answers for one sweep."""

    name = "Live page"

    def __init__(self, store: JobStore, port: int | None) -> None:
        super().__init__(port, _Handler)
        self.store = store
        self.lock = threading.Lock()
        self.charts: list[Chart] = []
        self.built_until = 0.0

    def answer(self, path: str) -> tuple[str, str] | None:
        """Return type and content for a path; None if there is no such path."""
        if path == "/":
            return "text/html", self.page()
        if path == "/progress.json":
            return "application/json", json.dumps(self.progress())
        if path == "/charts.json":
            return "application/json", json.dumps([*map(chart_values, self.current_charts())])
        return None

    def page(self) -> str:
        """Return the report if it is final, else the page that follows the sweep."""
        if self.is_final(read_sweep(self.store)):
            return self.report.read_text(encoding="utf-8")
        return build_live_page(self.store.folder.resolve().name, self.current_charts())

    @property
    def report(self) -> Path:
        return self.store.folder / "report" / "report.html"

    def is_final(self, progress: SweepProgress) -> bool:
        """Return whether all jobs have ended and the report was written afterwards."""
        return progress.is_over and self.report.is_file() and self.report.stat().st_mtime >= progress.changed

    def progress(self) -> dict[str, Any]:
        """Return the progress as values for JSON."""
        found = read_sweep(self.store)
        return {
            "title": self.store.folder.resolve().name,
            "totals": show_totals(found),
            "share": found.share,
            "columns": list(COLUMNS),
            "jobs": [{"status": job.status, "share": job.share, "cells": show_cells(job)} for job in found.jobs],
            "errors": [f"{job.name}: {job.error}" for job in found.jobs if job.error],
            "is_final": self.is_final(found),
        }

    def current_charts(self) -> list[Chart]:
        """Return the charts of the report from the current files, or those of a few seconds ago."""
        with self.lock:
            if (started := time.monotonic()) >= self.built_until:
                runs = load_runs(self.store.folder)
                metrics = read_metrics(runs, max(50, POINTS // len(runs)))
                self.charts = build_charts(runs, metrics, self.store.folder, Problems())
                took = time.monotonic() - started
                self.built_until = started + took + max(LEAST_AGE_S, AGE_FACTOR * took)
            return self.charts


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer

    def do_GET(self) -> None:
        """Answer one of the fixed paths."""
        if self.headers.get("Host") not in self.server.hosts:
            self.send_error(403, "Wrong host")
            return
        try:
            found = self.server.answer(self.path)
        except (UserError, OSError) as error:  # a file is being replaced, or the sweep was removed
            self.send_error(503, str(error).splitlines()[0].encode("ascii", "replace").decode())
            return
        if found is None:
            self.send_error(404)
            return
        kind, text = found
        content = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the page asks every few seconds."""


def build_live_page(title: str, charts: list[Chart]) -> str:
    """Write the page that follows a sweep; live.js fills it in."""
    sections = "".join(map(chart_element, charts)) or "<p class='soft'>No curve yet.</p>"
    body = f"""<main><h1>{escape(title)}</h1>
<div class="verdict" id="state"><p id="totals" aria-live="polite"></p><progress id="share" value="0"></progress></div>
<p id="lost" class="failed"></p>
<div class="scroll"><table><tbody id="jobs"></tbody></table></div>
<ul id="errors"></ul>
<h2>Charts</h2><div class="charts">{sections}</div></main>"""
    style, script = ((ASSETS / f"live.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    return write_document(title, body, charts, style, script, POLICY)
