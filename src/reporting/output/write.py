"""Write the report of a directory of runs: CSV, Markdown, figures, and one self-contained page (page.py).

The report depends on the directory alone (no clock, no machine), and on a benchmark beside it, so that it can be made
again at any time. Generated samples, error lines and names are arbitrary text: all of it is escaped.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from src.reporting.data.archive import run_folders
from src.reporting.data.artifacts import PROBES, load_samples
from src.reporting.data.json_values import Record
from src.reporting.data.problems import Problems, damage_lines
from src.reporting.data.runs import load_runs, read_metrics, to_records
from src.reporting.output.html_page import build_page
from src.reporting.output.report import Report
from src.reporting.plots.benchmark import newest_benchmark_figures
from src.reporting.plots.figures import figure_builders, to_png
from src.reporting.plots.interactive import build_charts
from src.reporting.plots.verdict import verdict_figures
from src.reporting.statistics.training_anomalies import course_lines
from src.reporting.statistics.verdicts import verdict_lines
from src.reporting.tables.comparison import Table, axis_line, comparison_table, table_note, unfinished_lines
from src.reporting.tables.learning_rates import learning_rate_figures, learning_rate_tables
from src.reporting.tables.secondary import further_tables
from src.runtime.atomic_files import reject_symlinks, remove_stale_temporaries, write_bytes, write_text

MAX_POINTS = 40_000
"""Points that the figures draw over all runs together: more than they have pixels."""

CAPTIONS = {
    "verdict.png": "The verdict: bits per byte of every seed, means with their own 95% intervals. Whether two means "
    "differ is in the words and in the table Pairs, not in these intervals.",
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
    **{f"probe_{name}.png": f"{name.capitalize()} by distance. {text}" for name, text in PROBES.items()},
    "learning_rates.png": "Validation bits per byte against the peak learning rate, by python -m src.tune.",
    "benchmark_speed.png": "Speed against context length, by python -m src.benchmark (its newest, beside these runs).",
    "benchmark_memory.png": "Memory against context length, by the same benchmark.",
}
FIGURE_NOTE = (
    "Learning rates reach their end at the budget, so a point before the end of a curve shows a run not yet finished: "
    "curves by FLOPs and time are shown, and only runs made for such a budget are ranked by it."
)


def write_report(
    directory: str | Path, out: str | Path | None = None, repeated: Sequence[str] = (), margin: float | None = None
) -> Path:
    """Write summary.csv, summary.md, report.html and figures/*.png; return the path of report.html.

    directory: as for `load_runs`. out: the folder to write to; `<directory>/report` unless given. repeated: as
    `repeated_lines` gives them. margin: as for `verdict_lines`. A part that fails is left out and named in the report.
    Raises: UserError.
    """
    directory = Path(directory)
    folder = directory / "report" if out is None else Path(out)
    runs = load_runs(directory)
    reject_symlinks(folder)
    for place in (folder, folder / "figures"):
        remove_stale_temporaries(place)
    problems = Problems()
    attempt = problems.attempt
    metrics = read_metrics(runs, max(200, MAX_POINTS // len(runs)))
    figures = _build_figures(runs, metrics, directory, problems, margin)
    charts = build_charts(runs, metrics, directory, problems)
    report = Report(
        title=directory.resolve().name,
        axis=axis_line(runs),
        table=comparison_table(runs),
        note=table_note(runs),
        verdict=attempt("verdict", lambda: verdict_lines(runs, margin), []),
        unfinished=unfinished_lines(runs),
        course=attempt("course of training", lambda: course_lines(metrics), []),
        repeated=list(repeated),
        more=[
            *attempt("table of learning rates", lambda: learning_rate_tables(directory), []),
            *further_tables(runs, problems, margin),
        ],
        figure_note=FIGURE_NOTE,
        samples=attempt("samples", lambda: _arrange_samples(runs), {}),
        problems=[*attempt("damage", lambda: damage_lines(runs, directory), []), *problems.lines],
    )
    page = build_page(report, charts, runs, directory)
    for name, content in figures.items():
        write_bytes(folder / "figures" / name, content)
    write_text(folder / "summary.csv", _csv(runs, directory))
    write_text(folder / "summary.md", _markdown(report, list(figures)))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _build_figures(
    runs: pd.DataFrame, metrics: pd.DataFrame, directory: Path, problems: Problems, margin: float | None
) -> dict[str, bytes]:
    """Render every figure as PNG, by file name; what fails is left out and noted."""
    sources: dict[str, Callable[[], dict[str, Callable[[], Figure]]]] = {
        "figure of the verdict": lambda: verdict_figures(runs, margin),
        "figures": lambda: figure_builders(runs, metrics),
        "figure of learning rates": lambda: learning_rate_figures(directory),
        "figures of the benchmark": lambda: newest_benchmark_figures(directory),
    }
    found: dict[str, bytes] = {}
    for what, list_builders in sources.items():
        for name, build in problems.attempt(what, list_builders, {}).items():
            if content := problems.attempt(f"figure {name}", lambda build=build: to_png(build()), b""):
                found[name] = content
    return found


def markdown_table(table: Table) -> str:
    """Write a table as Markdown."""
    names = [" ".join(filter(None, (column.group, column.name))) for column in table.columns]
    sides = [":--" if column.is_words else "--:" for column in table.columns]
    rows = [names, sides, *table.rows, *table.references]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in row) + " |" for row in rows)


def _csv(runs: pd.DataFrame, directory: Path) -> str:
    table = runs.copy()
    table["run_dir"] = [
        Path(os.path.relpath(path, run_folders(directory).resolve())).as_posix() for path in runs["run_dir"]
    ]
    table["contract"] = [json.dumps(contract, sort_keys=True) for contract in runs["contract"]]
    for column in table.columns:
        if table[column].dtype == object or str(table[column].dtype) == "str":
            table[column] = [_no_formula(value) for value in table[column]]
    return table.to_csv(index=False, lineterminator="\n")


def _no_formula(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would compute; numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


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


def _markdown(report: Report, figures: list[str]) -> str:
    parts = [f"# Comparison: {_plain(report.title)}", _plain(report.axis)]
    parts += ["## Verdict", _bullets(report.verdict), "## Results", markdown_table(report.table), _plain(report.note)]
    if report.unfinished:
        parts += ["## Not finished", _bullets(report.unfinished)]
    if report.course:
        parts += ["## On the way", _bullets(report.course)]
    if report.problems:
        parts += ["## Left out", _bullets(report.problems)]
    if report.repeated:
        parts += ["## Made again", _bullets(report.repeated)]
    for table in report.more:
        parts += [f"## {table.title}", markdown_table(table.table), _plain(table.note)]
    parts += ["## Figures", FIGURE_NOTE]
    parts += [f"![{CAPTIONS[name]}](figures/{name})" for name in figures]
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
