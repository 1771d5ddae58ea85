"""Write the report as one self-contained page: it sends no request, and no text in it can become code.

The script and the style are in assets/, with Plotly's basic bundle (MIT license), which draws the charts of
`plots/charts.py`.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import pandas as pd

from src.config.comparability import DERIVED
from src.config.formatting import NOTHING
from src.reporting.data.artifacts import load_commands, load_log_ends
from src.reporting.data.json_values import Record
from src.reporting.data.runs import load_evaluation, to_records
from src.reporting.output.report import Report
from src.reporting.plots.chart import Chart, as_values
from src.reporting.plots.style import style_of
from src.reporting.tables.table import Table

ASSETS = Path(__file__).parent / "assets"
PLOTLY = "plotly-basic-4.1.1.min.js"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def build_page(report: Report, charts: Sequence[Chart], runs: pd.DataFrame, directory: Path) -> str:
    """Write the page: the answer first, then charts, tables, samples, what failed, and how to repeat it."""
    records = to_records(runs)
    sections = [
        f"<h1>{escape(report.title)}</h1>",
        f'<div class="verdict">{_answer(report)}</div>',
        f'<p class="soft">{escape(report.introduction)}</p>',
        _filter(records),
        _titled("Charts", f"<div class='charts'>{''.join(map(_chart, charts))}</div>" if charts else ""),
        f"<h2>Results</h2>{_table(report.table)}<p class='soft'>{escape(report.note)}</p>",
        *(_titled(each.title, _table(each.table) + f"<p class='soft'>{escape(each.note)}</p>") for each in report.more),
        _titled("Not finished", _unfinished(report.unfinished, directory)),
        _titled("Training anomalies", _list(report.anomalies) if report.anomalies else ""),
        _titled("Samples", _samples(report, [str(record["architecture"]) for record in records])),
        _titled("What was equal", _contracts(records)),
        _titled("Left out", _list(report.problems) if report.problems else ""),
        _titled("Repeated runs", _list(report.repeated) if report.repeated else ""),
        _titled("How to repeat it", _reproduction(records, directory)),
    ]
    body = "\n".join(section for section in sections if section)
    scripts = "\n".join(f"<script>{_read(name)}</script>" for name in (PLOTLY, "page.js"))
    data = f'<script type="application/json" id="charts">{_json([as_values(chart) for chart in charts])}</script>'
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += f"<title>{escape(report.title)}</title><style>{_read('page.css')}</style>"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n{data}\n{scripts}\n</body>\n</html>\n'
    )


def _read(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8").replace("</script", "<\\/script")


def _json(value: object) -> str:
    """Write JSON for a script element without `<`: `</script` would end the element, and `<!--` changes its parsing."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _titled(title: str, content: str) -> str:
    return f"<h2>{escape(title)}</h2>{content}" if content else ""


def _answer(report: Report) -> str:
    """Return the answers with the verdict folded below them, or the verdict itself, which says why there are none."""
    if not report.answers:
        return f"<strong>Verdict</strong>{_list(report.verdict)}"
    sentences = "".join(f"<p>{escape(answer)}</p>" for answer in report.answers)
    return f"{sentences}<details><summary>verdict in full</summary>{_list(report.verdict)}</details>"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _filter(records: Sequence[Record]) -> str:
    """Return checkboxes that show and hide architectures, if there are several."""
    names = list(dict.fromkeys(str(record["architecture"]) for record in records))
    if len(names) < 2:
        return ""
    boxes = [
        f'<label><input type="checkbox" value="{escape(name)}" checked><i style="background:{style_of(name)[0]}"></i>'
        f"{escape(name)}</label>"
        for name in names
    ]
    return f"<nav aria-label='Architectures to show'>{''.join(boxes)}</nav>"


def _chart(chart: Chart) -> str:
    wide = ' class="wide"' if len(chart.panels) > 1 or len(chart.y) > 2 else ""
    head = f'<h3>{escape(chart.title)}</h3><p class="soft">{escape(chart.note)}</p>'
    return f'<section id="chart-{escape(chart.id)}"{wide}>{head}</section>'


def _table(table: Table) -> str:
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
    of_architecture = table.columns[0].name == "architecture"

    def body(kind: str, rows: list[list[str]], filtered: bool) -> str:
        lines = [
            f"<tr{_architecture(row[0]) if filtered else ''}>"
            + "".join(f"<td{side}>{escape(cell)}</td>" for side, cell in zip(sides, row, strict=True))
            + "</tr>"
            for row in rows
        ]
        return f'<tbody class="{kind}">{"".join(lines)}</tbody>' if rows else ""

    over = f"<tr>{top}</tr>" if any(group for group, _ in groups) else ""
    content = (
        f"<thead>{over}<tr>{names}</tr></thead>"
        + body("runs", table.rows, of_architecture)
        + body("references", table.references, False)
    )
    return f'<div class="scroll"><table>{content}</table></div>'


def _architecture(name: str) -> str:
    return f' data-architecture="{escape(name)}"'


def _unfinished(lines: Sequence[str], directory: Path) -> str:
    if not lines:
        return ""
    ends = [
        f"<details><summary>last lines of {escape(run)}</summary><pre>{escape(text)}</pre></details>"
        for run, text in load_log_ends(directory).items()
    ]
    return _list(lines) + "".join(ends)


def _samples(report: Report, architectures: Sequence[str]) -> str:
    parts: list[str] = []
    longest_first = sorted(set(architectures), key=len, reverse=True)

    def owner(heading: str) -> str:
        """A heading is the name of an architecture, or begins with it."""
        return next((name for name in longest_first if heading.startswith(name)), heading)

    for (stage, prompt), texts in report.samples.items():
        shown = escape(prompt)
        parts.append(f"<h3>After the {escape(stage)} stage: <code>{shown}</code></h3>")
        cells = [
            f"<div{_architecture(owner(heading))}><h4>{escape(heading)}</h4><pre><b>{shown}</b>{escape(text)}</pre>"
            "</div>"
            for heading, text in texts
        ]
        parts.append(f'<div class="samples">{"".join(cells)}</div>')
    return "".join(parts)


def _contracts(records: Sequence[Record]) -> str:
    """Return a table of the contracts of finished runs: each key with its value or values."""
    contracts = [record["contract"] for record in records if record["status"] == "done" and record["contract"]]
    rows: list[str] = []
    for key in dict.fromkeys(key for contract in contracts for key in contract):
        values = list(dict.fromkeys(str(contract.get(key, NOTHING)) for contract in contracts))
        cells = [key, " | ".join(values), DERIVED.get(key, "")]
        kinds = ("words", "wrap", "wrap soft")
        marks = zip(kinds, cells, strict=True)
        rows.append("<tr>" + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in marks) + "</tr>")
    if not rows:
        return ""
    intro = "Runs are ranked against each other only if all of this is equal, apart from speed."
    table = f'<div class="scroll"><table><tbody>{"".join(rows)}</tbody></table></div>'
    return f"<p class='soft'>{intro}</p><details><summary>the contract</summary>{table}</details>"


def _reproduction(records: Sequence[Record], directory: Path) -> str:
    """Return the command of every run and the hashes of its weights."""
    commands = load_commands(directory)
    rows: list[str] = []
    for record in records:
        found = load_evaluation(record["run_dir"])
        hashes = ", ".join(f"{stage} {entry['weights'][:12]}" for stage, entry in found.items() if entry["weights"])
        cells = [
            ("words", str(record["run"])),
            ("words", hashes or NOTHING),
            ("wrap", commands.get(record["run"], "see its config.yaml")),
        ]
        tag = _architecture(str(record["architecture"]))
        rows.append(f"<tr{tag}>" + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in cells) + "</tr>")
    head = "".join(f"<th class=words>{name}</th>" for name in ("run", "SHA-256 of its weights", "command"))
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    note = (
        "The same command on the same machine, with the versions of the contract, gives the same weights, bit for bit."
    )
    return f"<p class='soft'>{note}</p><details><summary>{len(rows)} runs</summary>{table}</details>"
