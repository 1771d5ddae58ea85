"""Write the report as one self-contained page: it sends no request, and no text in it can become code.

The script and the style are in assets/, with Plotly's basic bundle (MIT license), which draws the charts of
`plots/charts.py`.
"""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from src.config.comparability import DERIVED
from src.config.formatting import NOTHING, count_of
from src.reporting.data.artifacts import load_commands, load_log_ends
from src.reporting.data.json_values import Record
from src.reporting.data.runs import load_evaluation, to_records
from src.reporting.output.html_table import frame, of_architecture, write_table
from src.reporting.output.report import Report
from src.reporting.plots.chart import Chart, as_values
from src.reporting.plots.style import style_of
from src.reporting.plots.summary import summarize_chart, summarize_panel
from src.reporting.tables.table import Titled

ASSETS = Path(__file__).parent / "assets"
PLOTLY = "plotly-basic-4.1.1.min.js"
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


TERMS = {
    "bits per byte": "how many bits a model needs for a byte of text that it was not trained on: the lower, the more "
    "it has learned; 8 for a model that guesses",
    "best": "ahead of every other by a test that is wrong in at most 5% of reports; one that only leads has the lowest "
    "mean, and more seeds may change that",
    "±": "half of a 95% interval: the range that other seeds would give",
    "seed": "decides initial weights and the order of the text: runs that differ only in it show the effect of chance",
    "unstable": "at this learning rate, some seeds ended well and others did not, so their mean would say nothing",
    "active parameters": "those that one token uses, without embedding and head: moe has more in all",
    "FLOPs": "arithmetic operations of training, by formula",
    "state": "memory that a text takes while it is generated: keys and values of attention, or that of a recurrence",
    "contract": "all settings that have to be equal before runs are ranked; How to repeat it lists them",
}
"""Words that the page uses more than once, with their meaning."""
HERO, LADDER_HERO = ("verdict", "cost"), ("ladder", "verdict")
"""Charts of the first screen, beside each other; the cost of a ladder is in its own chart."""


def build_page(report: Report, charts: Sequence[Chart], runs: pd.DataFrame, directory: Path) -> str:
    """Write the page: answer and its charts, learning curves, tables, measurements, samples, how to repeat it."""
    records = to_records(runs)
    by_id = {chart.id: chart for chart in charts}
    hero = [by_id[name] for name in (LADDER_HERO if "ladder" in by_id else HERO) if name in by_id]
    curves = [by_id["curves"]] if "curves" in by_id else []
    measured = [chart for chart in charts if chart not in (*hero, *curves)]
    table = Titled("Comparison", report.table, report.note)
    sections = {
        "curves": ("Learning curves", _charts(curves)),
        "results": ("Results", f'<div class="tables">{"".join(map(_titled_table, (table, *report.more)))}</div>'),
        "measurements": ("Measurements", _charts(measured)),
        "unfinished": ("Not finished", _unfinished(report.unfinished, directory)),
        "samples": ("Samples", _samples(report, [str(record["architecture"]) for record in records])),
        "limits": ("Limits", _limits(report)),
        "repeat": ("How to repeat it", _repetition(records, report, directory)),
    }
    sections = {name: (title, content) for name, (title, content) in sections.items() if content}
    links = "".join(f'<a href="#{name}">{name.capitalize()}</a>' for name in sections)
    contents = f'<div><a href="#answer">Answer</a>{links}</div>'
    body = [
        f'<nav aria-label="Contents, and what is shown">{contents}{_filter(records)}</nav>',
        f'<main><section id="answer"><h1>{escape(report.title)}</h1>',
        f'<p class="soft">{escape(report.question)}</p>' if report.question != report.title else "",
        f'<div class="verdict">{_answer(report)}</div>',
        f'<div class="hero">{"".join(map(chart_element, hero))}</div>' if hero else "",
        f'<p class="soft">{escape(report.introduction)}</p></section>',
        *(f'<section id="{name}"><h2>{title}</h2>{content}</section>' for name, (title, content) in sections.items()),
        "</main>",
    ]
    return write_document(report.title, "\n".join(filter(None, body)), charts)


def write_document(
    title: str, body: str, charts: Sequence[Chart], style: str = "", script: str = "", policy: str = POLICY
) -> str:
    """Write an HTML document whose script draws the charts into the elements that `chart_element` makes.

    style, script: what comes after those of every page. policy: its Content-Security-Policy.
    """
    scripts = "\n".join(f"<script>{each}</script>" for each in (_read(PLOTLY), _read("page.js"), script) if each)
    data = f'<script type="application/json" id="charts">{_json([*map(chart_values, charts)])}</script>'
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    head += f"<title>{escape(title)}</title><style>{_read('page.css')}{style}</style>"
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{body}\n{data}\n{scripts}\n</body>\n</html>\n'
    )


def chart_values(chart: Chart) -> dict[str, Any]:
    """Return a chart as values, with the text of each panel."""
    values = as_values(chart)
    texts = [summarize_panel(chart, panel) for panel in chart.panels if panel.traces]
    return values | {"texts": texts}


def _read(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8").replace("</script", "<\\/script")


def _json(value: object) -> str:
    """Write JSON for a script element without `<`: `</script` would end the element, and `<!--` changes its parsing."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _titled_table(each: Titled) -> str:
    content = write_table(each.table, each.title)
    if note := each.note + each.table.gray_note():
        content += f'<p class="soft">{escape(note)}</p>'
    if each.is_folded:
        return f"<details><summary>{escape(each.title)}</summary>{content}</details>"
    return f"<section><h3>{escape(each.title)}</h3>{content}</section>"


def _answer(report: Report) -> str:
    """Return the answers with the verdict folded below them, or the verdict itself, which says why there are none."""
    if not report.answers:
        return f"<strong>Verdict</strong>{_list(report.verdict)}"
    parts = [answer.partition(": ") for answer in report.answers]
    sentences = "".join(f"<p><b>{escape(name)}:</b> {escape(words)}</p>" for name, _, words in parts)
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in TERMS.items())
    return (
        f"{sentences}<details><summary>verdict in full</summary>{_list(report.verdict)}</details>"
        f"<details><summary>terms</summary><dl>{terms}</dl></details>"
    )


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
    return f"<fieldset><legend>Show:</legend>{''.join(boxes)}</fieldset>"


def _charts(charts: Sequence[Chart]) -> str:
    return f'<div class="charts">{"".join(map(chart_element, charts))}</div>' if charts else ""


def chart_element(chart: Chart) -> str:
    """Return the element that the page's script draws a chart into, with the chart's text folded."""
    wide = ' class="wide"' if len(chart.panels) > 1 or len(chart.y) > 2 else ""
    head = f'<h3>{escape(chart.title)}</h3><div class="plots"></div><p class="soft">{escape(chart.note)}</p>'
    text = f"<details><summary>in words</summary><p>{escape(summarize_chart(chart))}</p></details>"
    return f'<section id="chart-{escape(chart.id)}"{wide}>{head}{text}</section>'


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
            f"<div{of_architecture(owner(heading))}><h4>{escape(heading)}</h4><pre><b>{shown}</b>{escape(text)}</pre>"
            "</div>"
            for heading, text in texts
        ]
        parts.append(f'<div class="samples">{"".join(cells)}</div>')
    return "".join(parts)


def _limits(report: Report) -> str:
    """Return what limits the answer: anomalies of training, and what is left out."""
    parts = {"Training anomalies": report.anomalies, "Left out": report.problems}
    return "".join(f"<h3>{title}</h3>{_list(lines)}" for title, lines in parts.items() if lines)


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
    intro = "What was equal: runs are ranked against each other only if all of this is, apart from speed."
    table = frame(f"<tbody>{''.join(rows)}</tbody>", "Contract")
    return f"<p class='soft'>{intro}</p><details><summary>the contract</summary>{table}</details>"


def _repetition(records: Sequence[Record], report: Report, directory: Path) -> str:
    """Return the command of every run, the hashes of its weights, and what was equal."""
    commands = load_commands(directory, records)
    rows: list[str] = []
    for record in records:
        found = load_evaluation(record["run_dir"])
        hashes = ", ".join(f"{stage} {entry['weights'][:12]}" for stage, entry in found.items() if entry["weights"])
        cells = [
            ("words", str(record["run"])),
            ("words", hashes or NOTHING),
            ("wrap code", commands.get(record["run"], "see its config.yaml")),
        ]
        tag = of_architecture(str(record["architecture"]))
        rows.append(f"<tr{tag}>" + "".join(f'<td class="{kind}">{escape(cell)}</td>' for kind, cell in cells) + "</tr>")
    head = "".join(f"<th class=words>{name}</th>" for name in ("run", "SHA-256 of its weights", "command"))
    table = frame(f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>", "Commands")
    note = (
        "The same command on the same machine, with the versions of the contract, gives the same weights, bit for bit."
    )
    if any(" data=" in command for command in commands.values()):
        note += " Text that is not generated is prepared first: python -m src.prepare with the command's data settings."
    repeated = _list(report.repeated) if report.repeated else ""
    details = f"<details><summary>commands of {count_of(len(rows), 'run')}</summary>{table}</details>"
    return f"{repeated}<p class='soft'>{note}</p>{details}{_contracts(records)}"
