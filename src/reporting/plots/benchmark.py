"""Tables and figures of a benchmark, from the plain values that it found."""

# matplotlib leaves the types of **kwargs open, and with them those of most of its methods.
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from src.config.formatting import NOTHING, show_bytes, show_flops, table
from src.config.schema import UserError
from src.reporting.plots.style import DPI, add_legend, style_of, style_panel
from src.runtime.atomic_files import replace_folder, write_text
from src.runtime.records import read_verified_json, write_record

REMEDY = "measure again with python -m src.benchmark, or remove it"
PHASES = {"train": "training", "prefill": "prefill", "decode": "decoding"}
_DASHES: Any = ((0, (1, 2)), (0, (5, 3)))
COLUMNS = (
    "architecture size phase model context_len tokens turns seconds tokens_per_second flops_per_second share_of_gemm "
    "share_of_memory peak_bytes state_bytes"
).split()


def points_of(found: dict[str, Any]) -> pd.DataFrame:
    """Return a row a point: COLUMNS."""
    rows = [
        {"architecture": series["architecture"], "size": series["size"], **point}
        for series in found["series"]
        for point in series["points"]
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def write_benchmark(found: dict[str, Any], folder: Path) -> None:
    """Write benchmark.json, points.csv, benchmark.md and the figures; the folder appears whole."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    points = points_of(found)
    with replace_folder(folder) as new:
        write_record(new / "benchmark.json", found)
        write_text(new / "points.csv", points.to_csv(index=False))
        write_text(new / "benchmark.md", describe(found) + "\n")
        for name, figure in benchmark_figures(points).items():
            figure.savefig(new / f"{name}.png")


def describe(found: dict[str, Any]) -> str:
    """Write the benchmark as text that is Markdown as well."""
    machine = [series["machine"] for series in found["series"] if series["machine"]]
    lines = [
        f"{found['device']}, {found['precision']}, {found['threads']} threads, torch {found['versions']['torch']}"
        + "".join(
            f"; products of matrices {show_flops(one['gemm_flops_per_second'])} FLOP/s, "
            f"memory {one['memory_bytes_per_second'] / 1e9:.1f} GB/s"
            for one in machine[:1]
        ),
        "",
    ]
    header = ["model", "context", "training", "of GEMM", "memory", "prefill", "memory"]
    header += ["decoding", "of memory", "a token", "state"]
    rows = [row for series in found["series"] for row in _rows(series)]
    lines += [*table(header, rows), ""]
    lines += [
        f"Training, prefill and decoding in tokens per second, medians of {_turns(found)} turns; all sides take turns. "
        f"A step of training has {found['train_tokens']:,} tokens or one sequence, the others "
        f"{found['batch_size']} sequence(s). Memory: of tensors at the peak, beyond weights and moments. Of GEMM: the "
        "FLOP/s that the model needs, over those of a product of matrices in the same process. Of memory: the bytes of "
        "weights and state that a token has to read, over those of a copy there."
        + (
            ""
            if found.get("peers_keep_memory", True)
            else " In the turns of peers glibc returns memory by its own rules."
        ),
    ]
    for series in found["series"]:
        lines += [f"{series['architecture']} {series['size']}: {line}" for line in _remarks(series, _turns(found))]
    return "\n".join([*lines, *_ratio_lines(found)])


def _turns(found: dict[str, Any]) -> int:
    return max((point["turns"] for series in found["series"] for point in series["points"]), default=0)


def _rows(series: dict[str, Any]) -> list[list[str]]:
    rows: list[list[str]] = []
    by_model: dict[str, dict[int, dict[str, Any]]] = {}
    for point in series["points"]:
        by_model.setdefault(point["model"], {}).setdefault(point["context_len"], {})[point["phase"]] = point
    for model, contexts in by_model.items():
        name = series["architecture"] if model == "ours" else f"  {model}"
        for context_len, phases in contexts.items():
            train, prefill, decode = (phases.get(phase, {}) for phase in PHASES)
            rows.append(
                [
                    name,
                    f"{context_len:,}",
                    _speed(train),
                    _share(train.get("share_of_gemm")),
                    show_bytes(train.get("peak_bytes")),
                    _speed(prefill),
                    show_bytes(prefill.get("peak_bytes")),
                    _speed(decode),
                    _share(decode.get("share_of_memory")),
                    _each(decode),
                    show_bytes(decode.get("state_bytes")),
                ]
            )
    return rows


def _speed(point: dict[str, Any]) -> str:
    return f"{point['tokens_per_second']:,.0f}" if point else NOTHING


def _share(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _each(point: dict[str, Any]) -> str:
    return f"{1e3 * point['seconds'] / point['tokens']:.1f} ms" if point else NOTHING


def _remarks(series: dict[str, Any], turns: int) -> list[str]:
    lines = [
        f"cost per token of {PHASES[phase]} grows as T^{fit['exponent']:.2f} from {fit['from']:,} to {fit['to']:,} "
        f"tokens (x{fit['ratio']:.2f})"
        for phase, fit in series["growth"].items()
    ]
    lines += [
        f"{PHASES[point['phase']]} of {point['model']} at {point['context_len']:,} is slow: timed once"
        for point in series["points"]
        if point["turns"] < turns
    ]
    return [*lines, *(f"{PHASES.get(name, name)} ended: {why}" for name, why in series["ended"].items())]


def _ratio_lines(found: dict[str, Any]) -> list[str]:
    kinds = {
        "ratios": "speed of training",
        "ratios_prefill": "of prefill",
        "ratios_decode": "of decoding",
        "ratios_train_memory": "memory of training (less is better)",
    }
    names = list(dict.fromkeys(name for kind in kinds for name in found[kind]))
    if not names:
        return []
    rows = [
        [name, *(f"{found[kind][name]:.2f}" if name in found[kind] else NOTHING for kind in kinds)] for name in names
    ]
    return ["", f"Ours over theirs at a context of {found['ratios_at']:,}:", "", *table(["", *kinds.values()], rows)]


def benchmark_figures(points: pd.DataFrame) -> dict[str, Figure]:
    """Draw speed and memory against context length, a panel a phase, both axes logarithmic."""
    return {
        "speed": _figure(points, "tokens_per_second", "tokens per second", lambda value: value),
        "memory": _figure(points, "peak_bytes", "memory (GB)", lambda value: value / 1e9),
    }


def _figure(points: pd.DataFrame, column: str, label: str, scale: Callable[[Any], Any]) -> Figure:
    figure = Figure(figsize=(13.5, 4.2), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(PHASES), squeeze=False)[0]
    lines: dict[str, Any] = {}
    for panel, (phase, title) in zip(panels, PHASES.items(), strict=True):
        for (architecture, model), rows in points[points["phase"] == phase].groupby(
            ["architecture", "model"], sort=False
        ):
            colour, marker = style_of(str(architecture))
            ours = model == "ours"
            name = str(architecture) if ours else f"{architecture}: {model}"
            (lines[name],) = panel.plot(
                rows["context_len"], scale(rows[column]), marker=marker, markersize=5, linewidth=1.8 if ours else 1.2,
                color=colour, linestyle="-" if ours else _DASHES[model != "mambapy"], label=name,
            )  # fmt: skip
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.set_title(title, loc="left", fontsize=11)
        panel.set_xlabel("context (tokens)")
        style_panel(panel)
    panels[0].set_ylabel(label)
    add_legend(figure, list(lines.values()))
    return figure


def newest_benchmark(directory: Path) -> pd.DataFrame | None:
    """Return the points of the newest benchmark of the output root that a directory of runs lies in, or None."""
    place = directory.resolve()
    files = [file for root in (place, *place.parents[:2]) for file in root.glob("benchmarks/*/benchmark.json")]
    if not files:
        return None
    newest = max(files, key=lambda file: file.stat().st_mtime_ns)
    try:
        return points_of(read_verified_json(newest, REMEDY))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{newest}: not as this program writes it; {REMEDY}") from None


def newest_benchmark_figures(directory: Path) -> dict[str, Callable[[], Figure]]:
    """List what draws that benchmark, by file name; nothing where there is none."""
    points = newest_benchmark(directory)
    figures = {} if points is None else benchmark_figures(points)
    return {f"benchmark_{name}.png": lambda figure=figure: figure for name, figure in figures.items()}


def describe_profile(found: dict[str, Any]) -> str:
    """Write where the time goes."""
    lines: list[str] = []
    for one in found["profiles"]:
        total = one["step_s"]
        lines += [
            f"{one['architecture']} {one['size']}: a step of {one['tokens']:,} tokens takes {1e3 * total:.0f} ms",
            "",
            *table(
                ["part, forward and backward", "count", "each", "together", "of the step"],
                [
                    [
                        name,
                        str(part["count"]),
                        f"{1e3 * part['seconds']:.1f} ms",
                        f"{1e3 * part['total_s']:.0f} ms",
                        f"{part['total_s'] / total:.0%}",
                    ]
                    for name, part in one["parts"].items()
                ],
            ),
            "",
            *_operator_lines("A step", one),
        ]
        token = 1e3 * one["decoding"]["token_s"]
        lines += [f"decoding: a token takes {token:.1f} ms", "", *_operator_lines("A token", one["decoding"])]
    return "\n".join(lines).rstrip()


def _operator_lines(what: str, found: dict[str, Any]) -> list[str]:
    return [
        *table(
            ["operator", "calls", "of the time"],
            [[op["name"], str(op["calls"]), f"{op['share']:.1%}"] for op in found["operators"]],
        ),
        "",
        f"{what} is {found['operator_calls']:,} operators of {found['operator_kinds']} kinds; it waits for the device "
        f"{sum(found['waits'].values())} times{_places(found['waits'])}.",
        "",
    ]


def _places(waits: dict[str, int]) -> str:
    return f" ({', '.join(f'{place} {count}x' for place, count in waits.items())})" if waits else ""
