"""The page in a browser: all charts are drawn, no request leaves it, filters work, and it fits a narrow screen."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.reporting import load_metrics, load_runs, write_report
from src.reporting.output.html_page import _json
from src.reporting.plots.chart import as_values
from src.reporting.plots.charts import build_charts
from tests.browser import needs_browser, probe
from tests.reporting.plots.test_context import write_measurements

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
    box: Object.fromEntries(["h1", ".verdict", "#chart-verdict .plot", "#chart-cost .plot"].map((name) => {
      const { top, bottom, left, right } = document.querySelector(name)?.getBoundingClientRect() ?? {};
      return [name, { top, bottom, left, right }];
    })),
    links: [...document.querySelectorAll("nav a")].map(
      (link) => [link.textContent, Boolean(document.querySelector(link.hash))]),
    labels: [...document.querySelectorAll(".plot")].map((plot) => plot.getAttribute("aria-label")),
    buttons: document.querySelectorAll(".panel button").length,
    cut: [...document.querySelectorAll("table")].map((table) => [table, table.closest(".scroll")]).filter(
      ([table, frame]) => frame.scrollWidth < table.offsetWidth || getComputedStyle(frame).overflowX !== "auto").length,
    dashes: [...new Set([...document.querySelectorAll("#chart-curves .js-line")].map(
      (line) => line.style.strokeDasharray))],
  };
  const place = document.createElement("pre");
  place.id = "found";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
}, 500));
</script>"""


def probe_page(page: Path, width: int = 1400, *flags: str) -> dict[str, Any]:
    """Open a page with the probe in it, and return the result of the probe; `errors` are those of the console."""
    copy = page.with_name("probed.html")
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    settings = ("--enable-logging=stderr", "--virtual-time-budget=8000", f"--window-size={width},2000")
    result, log = probe(copy.as_uri(), *settings, *flags)
    return result | {"errors": [line for line in log.splitlines() if "CONSOLE" in line]}


@pytest.fixture
def full_sweep(builder):
    """A sweep with all parts that a report can show, and with hostile text in every field from outside."""
    for architecture, level in (("dense", 1.0), ("mamba", 2.0), ("moe", 1.5)):
        for seed in range(3):
            write_measurements(builder.add(architecture, seed), level + seed / 10, ("language", "code"))
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
    "verdict cost curves learning-rates positions beyond recall probe-copying experts speed benchmark-speed "
    "benchmark-memory"
).split()


@pytest.mark.slow
def test_every_measurement_has_a_chart(full_sweep):
    charts = build_charts(load_runs(full_sweep.sweep), load_metrics(full_sweep.sweep), full_sweep.sweep)
    assert [chart.id for chart in charts] == CHARTS
    curves = as_values(charts[2])["panels"]
    assert [panel["title"] for panel in curves] == ["language", "code"]
    dense = curves[0]["traces"][0]
    y = dense["y"]["val/loss"]
    assert all(
        low < mean < high
        for low, mean, high in zip(dense["low"]["val/loss"], y, dense["high"]["val/loss"], strict=True)
    )
    assert len(y) == len(dense["x"]["val/loss"]["flops"]) == 10
    assert {trace["name"] for trace in curves[0]["traces"]} >= {"hybrid (failed)", "unigram", "uniform"}


def test_a_pending_run_has_no_chart(builder):
    builder.plan("dense-nano-full-s0-0000abcd", "dense")
    assert build_charts(load_runs(builder.sweep), load_metrics(builder.sweep), builder.sweep) == []
    assert "no verdict: no run is finished" in write_report(builder.sweep).read_text(encoding="utf-8")


def test_text_cannot_end_the_script_of_chart_data():
    assert "<" not in _json([HOSTILE, "<!--"]) and json.loads(_json([HOSTILE])) == [HOSTILE]


@needs_browser
def test_page_works_in_a_browser(full_sweep):
    result = probe_page(write_report(full_sweep.sweep))
    assert result["errors"] == [] and result["blocked"] == [] and result["requests"] == []
    assert result["title"] == "demo" and result["images"] == 0, "hostile text stays text"
    assert result["plots"] and min(result["plots"]) > 0 and min(result["all"]) > 0, "every chart has something in it"
    assert sum(result["fewer"]) < sum(result["all"]) and result["again"] == result["all"]
    assert result["fewerRows"] < result["rows"]
    assert result["buttons"] == 2 * len(result["plots"]) and all("lowest first" in text for text in result["labels"])
    assert len(result["dashes"]) >= 4, "architectures differ by their dashes"
    assert result["before"] == "tokens in the stage" and result["after"] == "training FLOPs in the stage"


@needs_browser
def test_the_first_screen_has_the_answer_and_its_charts(full_sweep):
    page = write_report(full_sweep.sweep)
    box = probe_page(page)["box"]
    forest, cost = box["#chart-verdict .plot"], box["#chart-cost .plot"]
    assert 0 < box["h1"]["bottom"] < box[".verdict"]["bottom"] < forest["top"] < forest["bottom"] < 900
    assert forest["right"] <= cost["left"] and cost["bottom"] < 900


@pytest.mark.slow
@needs_browser
def test_contents_lead_to_sections(full_sweep):
    links = dict(probe_page(write_report(full_sweep.sweep))["links"])
    assert list(links) == ["Answer", "Curves", "Results", "Measurements", "Unfinished", "Samples", "Repeat"]
    assert all(links.values())


@pytest.mark.slow
@needs_browser
def test_page_works_on_a_narrow_screen_and_in_dark_mode(full_sweep):
    page = write_report(full_sweep.sweep)
    light, small = probe_page(page), probe_page(page, 390, "--blink-settings=preferredColorScheme=0")
    assert small["errors"] == [] and small["scroll"] <= small["width"] <= 500
    assert small["cut"] == light["cut"] == 0 and small["box"]["#chart-verdict .plot"]["top"] < 800
    assert light["ink"] == "rgb(27, 31, 36)" and small["ink"] == "rgb(230, 233, 237)"


def test_a_run_of_an_earlier_version_has_its_searched_rate_in_its_command(full_sweep):
    full_sweep.jobs[0]["overrides"] += ["learning_rates=['outputs/tuning/x']", "seed=0"]
    full_sweep.plan("later", "mamba")
    page = write_report(full_sweep.sweep).read_text(encoding="utf-8")
    assert "src.train architecture=dense seed=0 optimizer.learning_rate=0.002</td>" in page


def test_failed_runs_show_their_last_lines_and_every_run_its_command(full_sweep):
    page = write_report(full_sweep.sweep).read_text(encoding="utf-8")
    assert "last lines of hybrid-nano-full-s0-0000abcd" in page and "first\n&lt;/script&gt;" in page
    assert "python -m src.train architecture=dense" in page and "the contract" in page
    assert len(page) < 2_500_000
