"""Write the report of a directory of runs: CSV, Markdown, one self-contained HTML page, and figures.

The report depends on the directory alone (no clock, no machine), and on a benchmark beside it, so that it can be made
again at any time. Generated
samples, error lines and names are arbitrary text: all of it is escaped.
"""

import base64
import json
import os
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from src.reporting.benchmark import newest_benchmark_figures
from src.reporting.course import course_lines
from src.reporting.evaluation import evaluation_tables
from src.reporting.learning_rates import learning_rate_figures, learning_rate_tables
from src.reporting.load import Record, load_runs, load_samples, read_metrics, to_records
from src.reporting.plots import build_figures, to_png
from src.reporting.tables import Table, Titled, axis_line, comparison_table, table_note, unfinished_lines
from src.reporting.verdicts import verdict_lines
from src.runtime.files import write_bytes, write_text

MAX_POINTS = 40_000
"""Points that the figures draw over all runs together: more than they have pixels."""

CAPTIONS = {
    "loss_vs_tokens.png": "Loss against tokens: what each architecture learns from the same text.",
    "loss_vs_flops.png": "Loss against training FLOPs: what it learns from the same arithmetic.",
    "loss_vs_time.png": "Loss against time on this machine.",
    "speed.png": "Training speed and peak memory.",
    "expert_balance.png": "How evenly the experts are used: the line is the mean over layers, the band holds them all.",
    "loss_by_position.png": "Loss by position in the window. The floor, of generated text, knows each document from "
    "its start, also what lies before the window: at the first positions it is out of reach. Bands: seeds.",
    "recall_by_distance.png": "Recall of names about which the generated text leaves no choice, by distance to their "
    "last mention: the share of them of which every token is the likeliest. Dotted: that mention is out of the window. "
    "Ranges with fewer than 10 names are left out. Bands: seeds.",
    "loss_beyond.png": "Loss by position in windows longer than the training context. Bands: seeds.",
    "probe_copying.png": "Copying: a stretch of random tokens, then the same again; nats that the first saves a token "
    "of the second, by the length of the stretch.",
    "probe_induction.png": "Induction: two tokens that stood side by side once; nats saved at the second when the "
    "first comes again, by the distance.",
    "probe_recall.png": "Recall: eight keys with their values, asked for in another order; nats saved at a value, by "
    "the distance.",
    "learning_rates.png": "Validation bits per byte against the peak learning rate, by python -m src.tune.",
    "benchmark_speed.png": "Speed against context length, by python -m src.benchmark (its newest, beside these runs).",
    "benchmark_memory.png": "Memory against context length, by the same benchmark.",
}
FIGURE_NOTE = (
    "Learning rates reach their end at the budget, so a point before the end of a curve shows a run not yet finished: "
    "curves by FLOPs and time are shown, and only runs made for such a budget are ranked by it."
)
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5c6670; --line: #d8dee4; --page: #fff; --card: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa4af; --line: #363d46; --page: #14181d; --card: #1d232a; }
}
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.5rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; } p, li { max-width: 62rem; } .soft, figcaption { color: var(--soft); }
h1, h3, li, code { overflow-wrap: anywhere; }
.verdict { border-left: 4px solid #0072b2; background: var(--card); padding: .7rem 1.2rem; border-radius: 0 6px 6px 0; }
.verdict ul { margin: .3rem 0 0; padding-left: 1.1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .8rem; text-align: right; white-space: nowrap; }
th.words, td.words { text-align: left; } th:first-child, td:first-child { padding-left: 0; }
thead th { color: var(--soft); font-weight: 600; }
thead tr:first-child th { text-align: center; }
thead tr:first-child th.several { border-bottom: 1px solid var(--line); }
tbody { border-top: 1px solid var(--line); } tbody.references td { color: var(--soft); }
tbody.runs td:first-child { font-weight: 600; }
figure { margin: 0 0 1.8rem; } img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.samples { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); }
.samples > div { background: var(--card); border-radius: 6px; padding: .7rem .9rem; min-width: 0; }
.samples h4 { margin: 0 0 .4rem; font-size: .9rem; } pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: .82rem/1.5 ui-monospace, Menlo, Consolas, monospace; } pre b { color: #0072b2; }
@media (prefers-color-scheme: dark) { pre b { color: #56b4e9; } }
"""


@dataclass(frozen=True)
class _Report:
    """Everything that the two pages say; each writes it in its own language."""

    title: str
    runs: int
    axis: str
    table: Table
    note: str
    verdict: list[str]
    unfinished: list[str]
    course: list[str]
    more: list[Titled]
    """Tables besides the comparison."""
    figures: dict[str, bytes]
    samples: dict[tuple[str, str], list[tuple[str, str]]]
    """(stage, prompt) -> (heading, text) of each architecture."""


def write_report(directory: str | Path, out: str | Path | None = None) -> Path:
    """Write summary.csv, summary.md, report.html and figures/*.png; return the path of report.html.

    directory: as for `load_runs`. out: the folder to write to; `<directory>/report` unless given. Raises: UserError.
    """
    directory = Path(directory)
    folder = directory / "report" if out is None else Path(out)
    runs = load_runs(directory)
    metrics = read_metrics(runs, max(200, MAX_POINTS // len(runs)))
    figures = build_figures(runs, metrics) | learning_rate_figures(directory) | newest_benchmark_figures(directory)
    report = _Report(
        title=directory.resolve().name,
        runs=len(runs),
        axis=axis_line(runs),
        table=comparison_table(runs),
        note=table_note(runs),
        verdict=verdict_lines(runs),
        unfinished=unfinished_lines(runs),
        course=course_lines(metrics),
        more=[*learning_rate_tables(directory), *evaluation_tables(runs)],
        figures={name: to_png(figure) for name, figure in figures.items()},
        samples=_arrange_samples(runs),
    )
    for name, content in report.figures.items():
        write_bytes(folder / "figures" / name, content)
    write_text(folder / "summary.csv", _csv(runs, directory))
    write_text(folder / "summary.md", _markdown(report))
    write_text(folder / "report.html", _html(report))
    return folder / "report.html"


def markdown_table(table: Table) -> str:
    """Write a table as Markdown."""
    names = [" ".join(filter(None, (column.group, column.name))) for column in table.columns]
    sides = [":--" if column.is_words else "--:" for column in table.columns]
    rows = [names, sides, *table.rows, *table.references]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows)


def _csv(runs: pd.DataFrame, directory: Path) -> str:
    table = runs.copy()
    table["run_dir"] = [Path(os.path.relpath(path, directory.resolve())).as_posix() for path in runs["run_dir"]]
    table["contract"] = [json.dumps(contract, sort_keys=True) for contract in runs["contract"]]
    return table.to_csv(index=False, lineterminator="\n")


def _arrange_samples(runs: pd.DataFrame) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Set samples of the same prompt side by side: one run an architecture and size, that of the lowest seed."""
    speakers: dict[tuple[Any, Any], Record] = {}
    for record in to_records(runs):
        if record["status"] == "done":
            speakers.setdefault((record["architecture"], record["size"]), record)
    several_sizes = len({size for _, size in speakers}) > 1
    chosen = {record["run"] for record in speakers.values()}
    arranged: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for sample in load_samples(runs[runs["run"].isin(sorted(chosen))]):
        heading = f"{sample['architecture']} {sample['size']}" if several_sizes else str(sample["architecture"])
        arranged.setdefault((sample["stage"], sample["prompt"]), []).append((heading, sample["text"]))
    return arranged


def _markdown(report: _Report) -> str:
    parts = [f"# Comparison: {_plain(report.title)}", _plain(report.axis)]
    parts += ["## Verdict", _bullets(report.verdict), "## Results", markdown_table(report.table), _plain(report.note)]
    if report.unfinished:
        parts += ["## Not finished", _bullets(report.unfinished)]
    if report.course:
        parts += ["## On the way", _bullets(report.course)]
    for table in report.more:
        parts += [f"## {table.title}", markdown_table(table.table), _plain(table.note)]
    parts += ["## Figures", FIGURE_NOTE]
    parts += [f"![{CAPTIONS[name]}](figures/{name})" for name in report.figures]
    if report.samples:
        parts.append("## Samples")
    for (stage, prompt), texts in report.samples.items():
        parts += [f"### After the {_plain(stage)} stage", "Prompt:", _fence(prompt)]
        for heading, text in texts:
            parts += [f"**{_plain(heading)}**", _fence(prompt + text)]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Escape what Markdown would read as markup."""
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", text)


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _fence(text: str) -> str:
    """Fence a text by more backticks than it has in a row."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def _html(report: _Report) -> str:
    sections = [
        f"<h1>{escape(report.title)}</h1>",
        f'<p class="soft">{escape(report.axis)}</p>',
        f'<div class="verdict"><strong>Verdict</strong>{_list(report.verdict)}</div>',
        f"<h2>Results</h2>{_html_table(report.table)}",
        f'<p class="soft">{escape(report.note)}</p>',
    ]
    if report.unfinished:
        sections.append(f"<h2>Not finished</h2>{_list(report.unfinished)}")
    if report.course:
        sections.append(f"<h2>On the way</h2>{_list(report.course)}")
    for table in report.more:
        sections.append(f"<h2>{escape(table.title)}</h2>{_html_table(table.table)}")
        sections.append(f'<p class="soft">{escape(table.note)}</p>')
    sections.append(f'<h2>Figures</h2><p class="soft">{escape(FIGURE_NOTE)}</p>')
    for name, content in report.figures.items():
        picture = base64.b64encode(content).decode("ascii")
        caption = escape(CAPTIONS[name])
        image = f'<img src="data:image/png;base64,{picture}" alt="{caption}">'
        sections.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    if report.samples:
        sections.append("<h2>Samples</h2>")
    for (stage, prompt), texts in report.samples.items():
        shown = escape(prompt)
        sections.append(f"<h3>After the {escape(stage)} stage: <code>{shown}</code></h3>")
        cells = [
            f"<div><h4>{escape(heading)}</h4><pre><b>{shown}</b>{escape(text)}</pre></div>" for heading, text in texts
        ]
        sections.append(f'<div class="samples">{"".join(cells)}</div>')
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(report.title)}</title><style>{STYLE}</style>"
    body = "\n".join(sections)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n</body>\n</html>\n'


def _list(lines: list[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _html_table(table: Table) -> str:
    groups: list[tuple[str, int]] = []
    for column in table.columns:
        if groups and column.group and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    top = "".join(
        f'<th colspan="{span}"{" class=several" if span > 1 else ""}>{escape(group)}</th>' for group, span in groups
    )
    sides = [" class=words" if column.is_words else "" for column in table.columns]
    names = "".join(f"<th{side}>{escape(column.name)}</th>" for side, column in zip(sides, table.columns, strict=True))

    def body(kind: str, rows: list[list[str]]) -> str:
        lines = [
            "<tr>" + "".join(f"<td{side}>{escape(cell)}</td>" for side, cell in zip(sides, row, strict=True)) + "</tr>"
            for row in rows
        ]
        return f'<tbody class="{kind}">{"".join(lines)}</tbody>' if rows else ""

    head = f"<thead><tr>{top}</tr><tr>{names}</tr></thead>"
    content = head + body("runs", table.rows) + body("references", table.references)
    return f'<div class="scroll"><table>{content}</table></div>'
