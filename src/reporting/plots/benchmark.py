"""Tables and charts of a benchmark, from the plain values that it measured."""

from pathlib import Path
from typing import Any

import pandas as pd

from src.config.formatting import NOTHING, count_of, show_bytes, show_flops, table
from src.config.schema import UserError
from src.reporting.plots.chart import Axis, Chart, Panel, trace_of
from src.reporting.plots.figure import draw, to_png
from src.runtime.atomic_files import replace_folder, write_bytes, write_text
from src.runtime.records import read_verified_json, write_record

REMEDY = "measure again with python -m src.benchmark, or remove it"
PHASES = {"train": "training", "prefill": "prefill", "decode": "decoding"}
DASHES = {"ours": "solid", "mambapy": "dot", "mlx": "9,3,2,3", "llama_cpp": "3,2"}
"""Line of each model; other libraries have dashes, so architectures differ by color and marker alone."""
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
    """Write benchmark.json, points.csv, benchmark.md and the figures; the folder is written atomically."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    points = points_of(found)
    with replace_folder(folder) as new:
        write_record(new / "benchmark.json", found)
        write_text(new / "points.csv", points.to_csv(index=False))
        write_text(new / "benchmark.md", describe(found) + "\n")
        for chart in benchmark_charts(points):
            write_bytes(new / f"{chart.id.removeprefix('benchmark-')}.png", to_png(draw(chart)))


def describe(found: dict[str, Any], room: int | None = None) -> str:
    """Write the benchmark as text that is Markdown as well.

    room: columns of the terminal; None: no limit.
    """
    machine = [series["machine"] for series in found["series"] if series["machine"]]
    lines = [
        f"{found['device']}, {found['precision']}, {count_of(found['threads'], 'thread')}, "
        f"torch {found['versions']['torch']}"
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
    lines += [*table(header, rows, ("state", "of memory", "of GEMM", "a token", "memory"), room), ""]
    lines += [
        f"Training, prefill and decoding in tokens per second, medians of {_turns(found)} turns; the models are "
        f"measured alternately. A step of training has {found['train_tokens']:,} tokens or one sequence, the others "
        f"{found['batch_size']} sequence(s). Memory: of tensors at the peak, beyond weights and moments. Of GEMM: the "
        "FLOP/s that the model needs, over those of a product of matrices in the same turns. Of memory: the bytes of "
        "weights and state that a token has to read, over those of a copy there."
        + (
            ""
            if found.get("peers_keep_memory", True)
            else " For other libraries, glibc keeps its default rules for freeing memory."
        ),
    ]
    remarks: dict[str, list[str]] = {}
    for series in found["series"]:
        for line in _remarks(series, _turns(found)):
            remarks.setdefault(line, []).append(f"{series['architecture']} {series['size']}")
    lines += [f"{', '.join(models)}: {line}" for line, models in remarks.items()]
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
        f"{PHASES[point['phase']]} at {point['context_len']:,} is slow here: steps of {point['tokens']:,} tokens "
        f"instead of {point['shrunk_from']:,}"
        for point in series["points"]
        if point["model"] == "ours" and point["shrunk_from"]
    ]
    lines += [
        f"{PHASES[point['phase']]} of {point['model']} at {point['context_len']:,} is slow: timed once"
        for point in series["points"]
        if point["turns"] < turns
    ]
    lines += [
        f"decoding of {point['model']} at {point['context_len']:,}: greedy token {point['first_difference'] + 1} is "
        "another than ours, with the same weights and prompt"
        for point in series["points"]
        if point.get("first_difference") is not None
    ]
    ended = series["ended"].items()
    return [
        *lines,
        *(f"{PHASES[name]} ended: {why}" if name in PHASES else f"{name} left out: {why}" for name, why in ended),
    ]


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


def benchmark_charts(points: pd.DataFrame | None) -> list[Chart]:
    """Chart speed and memory against context length, a panel for each phase, both axes logarithmic."""
    if points is None:
        return []
    kinds = (
        ("tokens_per_second", "Speed against context length", "tokens per second", "speed"),
        ("peak_bytes", "Memory against context length", "memory (bytes)", "memory"),
    )
    charts: list[Chart] = []
    for column, title, label, name in kinds:
        panels: list[Panel] = []
        for phase, phase_title in PHASES.items():
            panels.append(Panel(phase_title))
            rows = points[(points["phase"] == phase) & points[column].notna()]
            for (architecture, model), own in rows.groupby(["architecture", "model"], sort=False):
                label_of = str(architecture) if model == "ours" else f"{architecture}: {model}"
                trace = trace_of(str(architecture), label_of, DASHES.get(str(model), "dash"))
                trace.add_seeds("", {"": own["context_len"].tolist()}, [own[column].tolist()])
                panels[-1].traces.append(trace)
        note = "By python -m src.benchmark (the newest beside these runs). Dashed: other libraries at equal shape."
        axes = {"": Axis("context (tokens)", is_log=True)}, {"": Axis(label, is_log=True)}
        charts.append(
            Chart(f"benchmark-{name}", title, note, *axes, {f"benchmark_{name}": ""}, panels, columns=len(panels))
        )
    return charts


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


def describe_profile(found: dict[str, Any]) -> str:
    """Write how much time each part and operator of a step takes."""
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
