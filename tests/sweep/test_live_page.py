"""The live page: it follows a sweep, answers its own host alone, reaches no file, and becomes the report at the end."""

import http.client
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from src import report
from src.reporting import write_report
from src.sweep import report_refresh
from src.sweep.job_store import Job, JobStore
from src.sweep.live_page import LiveServer
from tests.browser import needs_browser, probe
from tests.integration import tiny
from tests.summaries import write_summary

JOBS = [
    Job(
        f"r{n}",
        f"../../runs/r{n}",
        [f"seed={n}"],
        "dense",
        "nano",
        "modern",
        "language",
        "local",
        n,
        {"language": 1000},
    )
    for n in range(3)
]
HOSTILE = "</script><img src=x onerror='document.title=1'>"


def write_metrics(store: JobStore, number: int, *tokens: int) -> None:
    folder = store.run_dir(JOBS[number])
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"stage": "language", "step": n, "tokens": n, "flops": float(n), "wall_time_s": float(n), "val/loss": 3 + 9 / n}
        | {"perf/tokens_per_second": 10.0}
        for n in tokens
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    """A sweep of which one job trains, one has failed and one waits."""
    opened = JobStore(tmp_path / "sweeps" / "followed")
    opened.open("s", JOBS)
    opened.record(JOBS[0], "running")
    write_metrics(opened, 0, 100, 200)
    opened.record(JOBS[1], "failed", 1, HOSTILE)
    return opened


@pytest.fixture
def server(store: JobStore) -> Iterator[LiveServer]:
    opened = LiveServer(store, 0)
    thread = threading.Thread(target=opened.serve_forever, daemon=True)
    thread.start()
    yield opened
    opened.shutdown()
    opened.server_close()


def get(server: LiveServer, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request(method, path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def progress(server: LiveServer) -> dict[str, Any]:
    status, text = get(server, "/progress.json")
    assert status == 200
    return json.loads(text)


def test_it_follows_the_jobs(server: LiveServer) -> None:
    found = progress(server)
    assert found["totals"].startswith("1 running, 1 failed, 1 waiting; ") and found["totals"].endswith(
        "about 3m 00s left"
    )
    assert [job["cells"][:3] for job in found["jobs"]] == [
        ["dense s0", "training", "20%"], ["dense s1", "failed", "0%"], ["dense s2", "waiting", "-"],
    ]  # fmt: skip
    assert found["errors"] == [f"dense s1: {HOSTILE}"] and not found["is_final"]
    write_metrics(server.store, 0, 100, 200, 900)
    assert progress(server)["jobs"][0]["share"] == 0.9


def test_curves_are_those_of_the_report(server: LiveServer) -> None:
    status, text = get(server, "/charts.json")
    (chart,) = json.loads(text)
    assert status == 200 and chart["id"] == "curves"
    assert chart["panels"][0]["traces"][0]["y"]["val/loss"] == [3.09, 3.045]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "0.0.0.0:{port}", ""])
def test_other_hosts_are_refused(server: LiveServer, host: str) -> None:
    for path in ("/", "/progress.json", "/charts.json"):
        status, text = get(server, path, host.format(port=server.server_port) or " ")
        assert status in (400, 403) and "dense" not in text


def test_only_the_loopback_interface_is_bound(server: LiveServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, "/", f"localhost:{server.server_port}")[0] == 200


@pytest.mark.parametrize(
    "path", ["/sweep.json", "/../sweep.json", "//etc/passwd", "/report/report.html", "/%2e%2e/sweep.json", "/?x", "*"]
)
def test_no_path_reaches_a_file(server: LiveServer, path: str) -> None:
    assert get(server, path)[0] == 404


def test_it_changes_nothing(server: LiveServer) -> None:
    before = sorted(server.store.folder.rglob("*"))
    assert get(server, "/")[0] == 200 and get(server, "/", method="POST")[0] == 501
    assert sorted(server.store.folder.rglob("*")) == before


def test_the_report_replaces_it_once_all_jobs_have_ended(server: LiveServer) -> None:
    store, page = server.store, server.store.folder / "report" / "report.html"
    page.parent.mkdir()
    page.write_text("of an earlier attempt")
    assert "No answer" in get(server, "/")[1]
    for job in JOBS:
        write_summary(store.run_dir(job))
        store.record(job, "done", 0)
    assert not progress(server)["is_final"], "the report is older than the last job"
    page.write_text("the report")
    assert progress(server)["is_final"] and get(server, "/") == (200, "the report")


@pytest.mark.slow
@needs_browser
def test_a_browser_shows_jobs_and_curves_and_draws_new_points(server: LiveServer, tmp_path: Path) -> None:
    """The curve gets a point after the page was opened; the text of a run cannot become code."""
    page = server.page()
    script = """<script>addEventListener("load", () => setTimeout(async () => {
      const curve = (one) => one.x.length && one.mode !== "lines";
      const points = () => document.querySelector(".plot").data.find(curve).x.length;
      const before = points();
      const charts = JSON.parse(document.getElementById("charts").textContent);
      const trace = charts[0].panels[0].traces[0];
      for (const key of ["val/loss", "train/loss"]) if (trace.y[key]) {
        trace.y[key].push(3.01); for (const x of Object.values(trace.x[key])) x.push(900);
      }
      document.dispatchEvent(new CustomEvent("charts", { detail: charts }));
      const found = { title: document.title, before, after: points(), images: document.images.length,
        rows: document.querySelectorAll("#jobs tr").length, errors: document.getElementById("errors").textContent,
        lost: document.getElementById("lost").textContent };
      const place = document.createElement("pre"); place.id = "found"; place.textContent = JSON.stringify(found);
      document.body.append(place);
    }, 3000));</script>"""
    server.page = lambda: page.replace("</body>", script + "</body>")
    found, _ = probe(server.address, "--virtual-time-budget=8000")
    assert found == {
        "title": "6% followed", "before": 2, "after": 3, "images": 0, "rows": 4, "errors": f"dense s1: {HOSTILE}",
        "lost": "",
    }  # fmt: skip


def test_the_report_is_written_while_the_sweep_runs_and_its_page_reloads(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_refresh, "POLL_S", 0.05)
    page = store.folder / "report" / "report.html"
    with report_refresh.refresh_report(store, None):
        time.sleep(0.3)
        assert not page.exists(), "no further job is done"
        write_summary(store.run_dir(JOBS[0]))
        end = time.monotonic() + 60
        while not page.exists() and time.monotonic() < end:
            time.sleep(0.05)
    assert '<meta http-equiv="refresh" content="60">' in page.read_text(encoding="utf-8")
    write_report(store.folder)
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serve=true", "dir={root}/runs"], "serve=true follows a sweep"),
        (["port=80", "dir={sweep}"], "port=80: is for serve=true"),
        (["serve=true", "publish_to=x", "dir={sweep}"], "publish_to: has no effect with serve=true"),
        (["serve=true", "port={port}", "dir={sweep}"], "port={port}: Address already in use"),
    ],
)
def test_wrong_settings_are_one_line(
    server: LiveServer, capsys: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    folder = server.store.folder
    names = {"root": folder.parents[1], "sweep": folder, "port": server.server_port}
    assert report.main([item.format(**names) for item in arguments]) == 2
    assert line.format(**names) in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_names_its_address_and_ends_by_ctrl_c(store: JobStore) -> None:
    process = tiny.start([f"dir={store.folder}", "serve=true"], "src.report")
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("Live page: http://127.0.0.1:")
    process.send_signal(2)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip(), err) == (0, "The live page has ended", "")
