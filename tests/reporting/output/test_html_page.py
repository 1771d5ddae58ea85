"""The page in a browser: everything is drawn, nothing leaves it, filters work, and a telephone can show it."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from src.reporting import load_metrics, load_runs, write_report
from src.reporting.output.html_page import _json
from src.reporting.plots.chart import as_values
from src.reporting.plots.charts import build_charts
from tests.reporting.plots.test_context import measure

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
HOSTILE = "</script><img src=x onerror='document.title=1'><script>document.title=2</script>"
PROBE = """<script>
const blocked = [];
document.addEventListener("securitypolicyviolation", (event) => blocked.push(event.blockedURI));
addEventListener("load", () => setTimeout(() => {
  const lines = () => [...document.querySelectorAll(".plot")].map(
    (plot) => plot.querySelectorAll(".scatterlayer .js-line, .plot .point").length);
  const all = lines(), boxes = [...document.querySelectorAll("nav input")];
  const shown = () => [...document.querySelectorAll("tr[data-architecture]")].filter((row) => row.offsetParent).length;
  const rows = shown(), axis = () => document.querySelector("#chart-curves .xtitle").textContent;
  const before = axis(), selects = document.querySelectorAll("#chart-curves select");
  if (boxes.length) boxes[0].click();
  const fewer = lines(), fewerRows = shown();
  if (boxes.length) boxes[0].click();
  selects[1].value = "flops"; selects[1].dispatchEvent(new Event("change"));
  const found = {
    title: document.title, all, fewer, again: lines(), rows, fewerRows, before, after: axis(), blocked,
    plots: [...document.querySelectorAll(".plot")].map((plot) => plot.querySelectorAll("svg").length),
    requests: performance.getEntriesByType("resource").map((entry) => entry.name)
      .filter((name) => !name.startsWith("data:")),
    width: innerWidth, scroll: document.documentElement.scrollWidth, images: document.images.length,
    ink: getComputedStyle(document.body).color,
  };
  const place = document.createElement("pre");
  place.id = "found";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
}, 500));
</script>"""


def look(page: Path, width: int = 1400, *flags: str) -> dict[str, Any]:
    """Open a page with the probe in it, and return what the probe found; `errors` are those of the console."""
    copy = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--enable-logging=stderr", "--virtual-time-budget=8000"]
    done = subprocess.run(
        [*command, f"--window-size={width},2000", *flags, "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert match, done.stderr[-2000:]
    found = json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return found | {"errors": [line for line in done.stderr.splitlines() if "CONSOLE" in line]}


@pytest.fixture
def whole(builder):
    """A sweep with all that a report can show, and with hostile text wherever text comes from elsewhere."""
    for architecture, level in (("dense", 1.0), ("mamba", 2.0), ("moe", 1.5)):
        for seed in range(3):
            measure(builder.add(architecture, seed), level + seed / 10, ("language", "code"))
    for run in builder.root.glob("runs/moe-*"):
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for row in rows:
            for layer in (1, 3):
                row |= {f"moe/layer_{layer}/{name}": 0.1 * layer for name in ("load_entropy", "max_violation")}
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    builder.add("hybrid", 0, status="failed", error=HOSTILE, stages=("language",))
    (builder.sweep / "jobs" / "hybrid-nano-full-s0-0000abcd.log").write_text("first\n" + HOSTILE)
    samples = next(builder.root.glob("runs/dense-*-s0-*")) / "samples" / "language.json"
    samples.write_text(json.dumps([{"prompt": HOSTILE, "text": HOSTILE}]))
    trials = [{"learning_rate": rate, "bits_per_byte": bits} for rate, bits in ((1e-3, 2.0), (2e-3, 1.9), (4e-3, None))]
    rates = {"dense": {"learning_rate": 2e-3, "edge": None, "trials": trials}}
    search = {"size": "nano", "optimizer": "adamw", "text": HOSTILE, "seeds": [1000], "rates": rates}
    (builder.sweep / "learning_rates.json").write_text(json.dumps({"format_version": 1, "searches": [search]}))
    point = {"model": "ours", "context_len": 256, "tokens": 256, "turns": 5, "seconds": 1.0, "tokens_per_second": 9.0}
    places = [(phase, n) for phase in ("train", "decode") for n in (256, 512)]
    points = [{**point, "phase": phase, "peak_bytes": 1e9, "context_len": n} for phase, n in places]
    series = [{"architecture": "dense", "size": "nano", "points": points}]
    (builder.root / "benchmarks" / "b").mkdir(parents=True)
    (builder.root / "benchmarks" / "b" / "benchmark.json").write_text(json.dumps({"series": series}))
    return builder


CHARTS = (
    "verdict curves learning-rates positions beyond recall probe-copying experts speed benchmark-speed benchmark-memory"
).split()


def test_there_is_a_chart_of_everything_that_was_measured(whole):
    charts = build_charts(load_runs(whole.sweep), load_metrics(whole.sweep), whole.sweep)
    assert [chart.id for chart in charts] == CHARTS
    curves = as_values(charts[1])["panels"]
    assert [panel["title"] for panel in curves] == ["language", "code"]
    dense = curves[0]["traces"][0]
    y = dense["y"]["val/loss"]
    assert all(
        low < mean < high
        for low, mean, high in zip(dense["low"]["val/loss"], y, dense["high"]["val/loss"], strict=True)
    )
    assert len(y) == len(dense["x"]["val/loss"]["flops"]) == 10
    assert {trace["name"] for trace in curves[0]["traces"]} >= {"hybrid (failed)", "unigram", "uniform"}


def test_a_run_that_has_not_begun_makes_no_chart(builder):
    builder.plan("dense-nano-full-s0-0000abcd", "dense")
    assert build_charts(load_runs(builder.sweep), load_metrics(builder.sweep), builder.sweep) == []
    assert "no verdict: no run is finished" in write_report(builder.sweep).read_text(encoding="utf-8")


def test_no_text_ends_the_data_of_the_charts():
    assert "<" not in _json([HOSTILE, "<!--"]) and json.loads(_json([HOSTILE])) == [HOSTILE]


@needs_browser
def test_in_a_browser(whole):
    found = look(write_report(whole.sweep))
    assert found["errors"] == [] and found["blocked"] == [] and found["requests"] == []
    assert found["title"] == "demo-12345678" and found["images"] == 0, "hostile text stays text"
    assert found["plots"] and min(found["plots"]) > 0 and min(found["all"]) > 0, "every chart has something in it"
    assert sum(found["fewer"]) < sum(found["all"]) and found["again"] == found["all"]
    assert found["fewerRows"] < found["rows"]
    assert found["before"] == "tokens in the stage" and found["after"] == "training FLOPs in the stage"


@pytest.mark.slow
@needs_browser
def test_on_a_telephone_and_in_the_dark(whole):
    page = write_report(whole.sweep)
    light, small = look(page), look(page, 390, "--blink-settings=preferredColorScheme=0")
    assert small["errors"] == [] and small["scroll"] <= small["width"] <= 500
    assert light["ink"] == "rgb(27, 31, 36)" and small["ink"] == "rgb(230, 233, 237)"


def test_what_failed_shows_its_last_lines_and_all_can_be_repeated(whole):
    page = write_report(whole.sweep).read_text(encoding="utf-8")
    assert "last lines of hybrid-nano-full-s0-0000abcd" in page and "first\n&lt;/script&gt;" in page
    assert "python -m src.train architecture=dense" in page and "the contract" in page
    assert len(page) < 2_500_000
