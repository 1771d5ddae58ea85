"""Write the report of a directory of runs: CSV, Markdown, figures, and one self-contained page (html_page.py).

The report depends only on the directory (no clock, no machine) and on a benchmark beside it, so it can be made again
at any time. Generated samples, error lines and names are arbitrary text: all of it is escaped.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from src.reporting.data.archive import run_folders
from src.reporting.data.artifacts import load_samples, load_sweep_name
from src.reporting.data.json_values import Record
from src.reporting.data.metrics_file import read_metrics
from src.reporting.data.problems import Problems, damage_lines
from src.reporting.data.runs import load_runs, to_records
from src.reporting.data.shared_results import share_results
from src.reporting.output.html_page import build_page
from src.reporting.output.report import Report
from src.reporting.plots.chart import Chart
from src.reporting.plots.charts import build_charts
from src.reporting.plots.figure import draw, to_png
from src.reporting.plots.summary import summarize_chart
from src.reporting.statistics.answers import answer_lines
from src.reporting.statistics.question import question_of
from src.reporting.statistics.training_anomalies import anomaly_lines
from src.reporting.statistics.verdicts import verdict_lines
from src.reporting.tables.comparison import comparison_table, introduction, table_note, unfinished_lines
from src.reporting.tables.learning_rates import learning_rate_tables
from src.reporting.tables.secondary import further_tables
from src.reporting.tables.table import Table
from src.runtime.atomic_files import reject_symlinks, remove_stale_temporaries, write_bytes, write_text

MAX_POINTS = 40_000
"""Points that the figures draw over all runs together: more than they have pixels."""


def write_report(
    directory: str | Path,
    out: str | Path | None = None,
    repeated: Sequence[str] = (),
    margin: float | None = None,
    reload_s: int | None = None,
) -> Path:
    """Write summary.csv, summary.md, report.html and figures/*.png; return the path of report.html.

    directory: as for `load_runs`. out: the folder to write to; `<directory>/report` unless given. repeated: as
    `repeated_lines` gives them. margin: as for `verdict_lines`. reload_s: the page loads itself again after so many
    seconds, while a sweep runs. A part that fails is left out and named in the report.
    Raises: UserError.
    """
    directory = Path(directory)
    folder = directory / "report" if out is None else Path(out)
    with share_results():
        return _write(directory, folder, repeated, margin, reload_s)


def _write(directory: Path, folder: Path, repeated: Sequence[str], margin: float | None, reload_s: int | None) -> Path:
    runs = load_runs(directory)
    reject_symlinks(folder)
    for place in (folder, folder / "figures"):
        remove_stale_temporaries(place)
    problems = Problems()
    attempt = problems.attempt
    metrics = read_metrics(runs, max(200, MAX_POINTS // len(runs)))
    charts = build_charts(runs, metrics, directory, problems, margin)
    figures = _draw_files(charts, problems)
    report = Report(
        title=load_sweep_name(directory) or question_of(runs),
        question=question_of(runs),
        introduction=introduction(runs),
        table=comparison_table(runs),
        note=table_note(runs),
        answers=attempt("answer", lambda: answer_lines(runs, margin), []),
        verdict=attempt("verdict", lambda: verdict_lines(runs, margin), []),
        unfinished=unfinished_lines(runs),
        anomalies=attempt("training anomalies", lambda: anomaly_lines(metrics), []),
        repeated=list(repeated),
        more=[
            *further_tables(runs, problems, margin),
            *attempt("table of learning rates", lambda: learning_rate_tables(directory), []),
        ],
        samples=attempt("samples", lambda: _arrange_samples(runs), {}),
        problems=[*attempt("damage", lambda: damage_lines(runs, directory), []), *problems.lines],
    )
    page = build_page(report, charts, runs, directory)
    if reload_s is not None:
        page = page.replace("<head>", f'<head><meta http-equiv="refresh" content="{reload_s}">', 1)
    for name, (image, *_) in figures.items():
        write_bytes(folder / "figures" / name, image)
    write_text(folder / "summary.csv", _csv(runs, directory))
    write_text(folder / "summary.md", _markdown(report, {name: texts for name, (_, *texts) in figures.items()}))
    write_text(folder / "report.html", page)
    return folder / "report.html"


def _draw_files(charts: Sequence[Chart], problems: Problems) -> dict[str, tuple[bytes, str, str]]:
    """Draw the image files of all charts: name -> PNG, text, caption; one that fails is left out and noted."""
    found: dict[str, tuple[bytes, str, str]] = {}
    for chart in charts:
        for name, x in chart.files.items():
            image = problems.attempt(f"figure {name}", lambda chart=chart, x=x: to_png(draw(chart, x)), b"")
            if image:
                found[f"{name}.png"] = image, f"{chart.title}. {summarize_chart(chart, x)}", chart.note
    return found


def markdown_table(table: Table) -> str:
    """Write a table as Markdown."""
    names = [" ".join(filter(None, (column.group, column.name))) for column in table.columns]
    sides = [":--" if column.is_words else "--:" for column in table.columns]
    rows = [
        [f"**{_plain(cell)}**" if _is_best(table, i, j) else _plain(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    references = [[_plain(cell) for cell in row] for row in table.references]
    return "\n".join(f"| {' | '.join(row)} |" for row in [[_plain(name) for name in names], sides, *rows, *references])


def _is_best(table: Table, row: int, column: int) -> bool:
    mark = table.marks.get((row, column))
    return mark is not None and mark.kind == "best"


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
    """Put an apostrophe before text that a spreadsheet would evaluate; numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _arrange_samples(runs: pd.DataFrame) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """Collect samples by prompt: of one run for each architecture and size, that of the lowest seed."""
    representatives: dict[tuple[Any, Any], Record] = {}
    for record in to_records(runs):
        if record["status"] == "done":
            representatives.setdefault((record["architecture"], record["size"]), record)
    several_sizes = len({size for _, size in representatives}) > 1
    chosen = {record["run"] for record in representatives.values()}
    arranged: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for sample in load_samples(runs[runs["run"].isin(sorted(chosen))]):
        heading = f"{sample['architecture']} {sample['size']}" if several_sizes else str(sample["architecture"])
        arranged.setdefault((sample["stage"], sample["prompt"]), []).append((heading, sample["text"]))
    return arranged


def _markdown(report: Report, captions: dict[str, list[str]]) -> str:
    """Write the report as Markdown.

    captions: name of an image -> its text, for readers who do not see it, and its caption.
    """
    answers = [f"**{_plain(answer)}**" for answer in report.answers]
    parts = [f"# {_plain(report.title)}", *([_plain(report.question)] if report.question != report.title else [])]
    parts += [*answers, _plain(report.introduction)]
    parts += ["## Verdict", _bullets(report.verdict), "## Results", markdown_table(report.table)]
    parts += [_plain(report.note + report.table.gray_note())]
    if report.unfinished:
        parts += ["## Not finished", _bullets(report.unfinished)]
    if report.anomalies:
        parts += ["## Training anomalies", _bullets(report.anomalies)]
    if report.problems:
        parts += ["## Left out", _bullets(report.problems)]
    if report.repeated:
        parts += ["## Repeated runs", _bullets(report.repeated)]
    for table in report.more:
        parts += [f"## {table.title}", markdown_table(table.table), _plain(table.note + table.table.gray_note())]
    if captions:
        parts.append("## Figures")
    for name, (text, caption) in captions.items():
        parts += [f"![{_plain(text)}](figures/{name})", _plain(caption)]
    if report.samples:
        parts.append("## Samples")
    for (stage, prompt), texts in report.samples.items():
        parts += [f"### After the {_plain(stage)} stage", "Prompt:", _fence(prompt)]
        for heading, text in texts:
            parts += [f"**{_plain(heading)}**", _fence(prompt + text)]
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Escape Markdown markup."""
    return re.sub(r"([\\`*_|<>\[\]#])", r"\\\1", text)


def _bullets(lines: list[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _fence(text: str) -> str:
    """Fence a text by more backticks than it has in a row."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
