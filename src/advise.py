"""`python -m src.advise ladder=DIR hours=12 machine=mac_48gb`: which architecture and size to train, and how sure."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src.cli.command import run_cli, run_command
from src.cli.command_line import format_argument
from src.cli.next_command import command_of, print_next
from src.config.checks import check_settings
from src.config.formatting import fit_text, show_bytes, show_count, show_time, table, terminal_width
from src.config.schema import AdviseConfig

if TYPE_CHECKING:
    from src.reporting.statistics.held_out import HeldOut, Order
    from src.runs.advice import Advice, Candidate

DROPPED = ("state", "memory", "tokens/s", "parameters")
"""The columns that a narrow terminal leaves out, in this order."""
BELOW = ", but below the ladder's smallest size or budget"
PUBLISHED_LADDER = "Ladder: the published one, of stories (docs/RESULTS.md); ladder=[DIR] takes your own."


def advise(config: AdviseConfig) -> int:
    """Print the advice. Raises: UserError if the ladder or the machine's speed is missing."""
    from src.runs.advice import check_predictions, choose_model

    check_settings(config)
    if config.check:
        results = check_predictions(config)
        if config.format == "json":
            print(json.dumps(checked_values(results), indent=2))
        else:
            print(fit_text(describe_check(results), terminal_width()))
        return 0
    advice = choose_model(config)
    if config.format == "json":
        print(json.dumps(as_values(config, advice), indent=2))
        return 0
    print(fit_text(describe(config, advice), terminal_width()))
    print_next([command_of("train", *_settings(config, advice), "dry_run=true")])
    return 0


def _settings(config: AdviseConfig, advice: "Advice") -> list[str]:
    """Return the settings of a run for which the loss was predicted."""
    from src.runs.advice import ladder_folders
    from src.runs.tuned_learning_rates import FILE, load_searches

    best, training = advice.candidates[0], advice.settings.training
    settings = {
        "architecture": best.model.architecture,
        "size": best.model.size,
        "tokenizer.vocab_size": advice.settings.tokenizer.vocab_size,
        "schedule": advice.settings.schedule.name,
        "training.max_tokens": round(best.tokens),
        "training.seq_len": training.seq_len,
        "training.global_batch_size": training.global_batch_size,
        "training.micro_batch_size": "auto",
        **({} if best.model.memory == training.memory else {"training.memory": best.model.memory}),
    }
    searched = [folder for folder in ladder_folders(config) if (Path(folder) / FILE).is_file()]
    # Of the most sizes, since rates of two sizes alone can miss that of a larger one.
    most = sorted(searched, key=lambda folder: -len(load_searches([folder])))[:1]
    rates = [format_argument("learning_rates", folder, is_list=True) for folder in most]
    return [*(f"{key}={value}" for key, value in settings.items()), *rates]


def describe(config: AdviseConfig, advice: "Advice") -> list[str]:
    """Return the answer, the table and what it rests on."""
    best = advice.candidates[0]
    header = ["architecture", "size", "parameters", "tokens", "bits per byte", "95%", "best in", "tokens/s", "memory",
              "state"]  # fmt: skip
    rows = [_row(each) for each in advice.candidates]
    where = "on this machine" if config.machine.name == "here" else f"on {config.machine.name}"
    model, found = best.model, best.prediction
    return [
        f"Train {model.architecture} at size {model.size} on {show_count(best.tokens)} tokens: about {found.loss:.3f} "
        f"bits per byte ({found.low:.3f} to {found.high:.3f}), in {show_time(3600 * config.hours)} {where}.",
        _how_sure(advice),
        "",
        *table(header, rows, DROPPED, terminal_width()),
        "",
        "Of each architecture its best size. best in: share of the laws' bootstrap draws in which it is best. state: "
        f"of one sequence of {config.context_len:,} tokens while generating.",
        f"Speed: {config.machine.source}"
        + (f"; {config.machine.utilization:.0%} of that is assumed." if config.machine.utilization else "."),
        *([] if config.ladder else [PUBLISHED_LADDER]),
        f"The losses of the ladder deviate from its laws by {best.law.noise:.1%}.",
        *_changes_lines(advice),
        *_extrapolation_lines(advice),
    ]


def _row(candidate: "Candidate") -> list[str]:
    model, found = candidate.model, candidate.prediction
    return [
        model.architecture,
        model.size,
        show_count(model.cost.total_params),
        show_count(candidate.tokens),
        f"{found.loss:.3f}",
        f"{found.low:.3f} to {found.high:.3f}",
        f"{candidate.is_best_in:.0%}",
        show_count(model.tokens_per_second),
        f"{show_bytes(model.memory_bytes)}{'' if model.memory == 'full' else f' ({model.memory})'}",
        show_bytes(model.state_bytes),
    ]


def _how_sure(advice: "Advice") -> str:
    from src.runs.advice import FAR, RUNG_SEEDS, RUNG_TOKENS_PER_PARAMETER

    best, *others = advice.candidates
    if not others:
        return "The ladder has no other architecture."
    share, beyond = f"it is best in {best.is_best_in:.0%} of the draws", max(best.extrapolation)
    if best.is_sure:
        return f"Sure: {share}."
    far = f", but {beyond:.0f} times beyond the ladder" if beyond > FAR else BELOW if best.is_below else ""
    if advice.rung is None:
        return f"Not sure: {share}{far}."
    names, size = " and ".join(advice.rung.architectures), advice.rung.size
    return (
        f"Not sure: {share}{far}. {RUNG_SEEDS} seeds of {names} at size {size}, {RUNG_TOKENS_PER_PARAMETER} tokens a "
        f"parameter, would make it surer: about {show_time(advice.rung.seconds)}."
    )


def _changes_lines(advice: "Advice") -> list[str]:
    (_, first), *later = advice.changes
    if not later:
        return [f"The order does not change: {first} is best from a sixty-fourth of the time to 64 times it."]
    return [f"The best changes with time: {first}, " + ", ".join(f"{name} from {_hours(at)} on" for at, name in later)]


def _hours(hours: float) -> str:
    return show_time(3600 * hours)


def _extrapolation_lines(advice: "Advice") -> list[str]:
    lines: list[str] = []
    for each in advice.candidates:
        size, tokens = each.extrapolation
        name, error = each.model.architecture, advice.left_out_errors[each.model.architecture]
        tested = "" if error is None else f"; without the ladder's largest size, the law missed that by {error:+.1%}"
        beyond = f"{size:.3g} times the ladder's largest size, {tokens:.3g} times its tokens"
        is_outside = each.is_below or max(size, tokens) > 1
        below = BELOW if each.is_below else ""
        lines.append(f"{name}: {'extrapolates: ' if is_outside else ''}{beyond}{below}{tested}.")
    return lines


def describe_check(results: "Sequence[HeldOut]") -> list[str]:
    """Return the table of predictions and results, and how many of them hold."""
    from src.reporting.statistics.held_out import significant_orders

    header = ["architecture", "size", "tokens", "predicted", "95%", "measured", "seeds", "error"]
    rows = [
        [
            each.law.architecture,
            each.size,
            show_count(each.tokens),
            f"{each.prediction.loss:.4f}",
            f"{each.prediction.low:.4f} to {each.prediction.high:.4f}",
            "not finished" if each.loss is None else f"{each.loss:.4f}",
            str(len(each.losses)),
            "" if each.error is None else f"{each.error:+.1%}",
        ]
        for each in results
    ]
    return [
        *table(header, rows, ("seeds",), terminal_width()),
        "",
        "Bits per byte; error: of the prediction, relative to the measured loss.",
        *_held_lines(results),
        *_below_lines(results),
        *_order_lines(significant_orders(results)),
    ]


def _order_lines(orders: "Sequence[Order]") -> list[str]:
    """Name the pairs of each size and budget whose order the laws call significant, and count the right ones."""
    cells: dict[str, list[str]] = {}
    for each in orders:
        pair = f"{each.lower.law.architecture} below {each.higher.law.architecture}"
        cell = f"{each.lower.size}, {show_count(each.lower.tokens)} tokens"
        cells.setdefault(cell, []).append(f"{pair}{' (wrong)' if each.is_right is False else ''}")
    lines = [f"Significant at {cell}: {', '.join(pairs)}." for cell, pairs in cells.items()]
    known = [each for each in orders if each.is_right is not None]
    right = [f"{sum(bool(each.is_right) for each in known)} of {len(known)} such orders are as measured."]
    return [*lines, *(right if known else [])]


def _held_lines(results: "Sequence[HeldOut]") -> list[str]:
    errors = [abs(each.error) for each in results if each.error is not None]
    if not errors:
        return []
    inside = sum(each.is_inside for each in results)
    return [f"{inside} of {len(errors)} losses lie inside the interval; the largest error is {max(errors):.1%}."]


def _below_lines(results: "Sequence[HeldOut]") -> list[str]:
    below = dict.fromkeys(f"{each.size} at {show_count(each.tokens)} tokens" for each in results if each.is_below)
    where = "Below the ladder's smallest size or budget, where its laws are not to be trusted"
    return [f"{where}: {', '.join(below)}."] if below else []


def checked_values(results: "Sequence[HeldOut]") -> dict[str, Any]:
    """Return the predictions and results as plain values for JSON."""
    from src.reporting.statistics.held_out import significant_orders

    predictions = [
        {
            "architecture": each.law.architecture,
            "size": each.size,
            "active_non_embedding_params": each.params,
            "tokens": each.tokens,
            "bits_per_byte": each.prediction._asdict(),
            "measured": list(each.losses),
            "error": each.error,
            "is_below_ladder": each.is_below,
        }
        for each in results
    ]
    orders = [
        {"size": each.lower.size, "tokens": each.lower.tokens, "lower": each.lower.law.architecture,
         "higher": each.higher.law.architecture, "is_right": each.is_right}
        for each in significant_orders(results)
    ]  # fmt: skip
    return {"predictions": predictions, "orders": orders}


def as_values(config: AdviseConfig, advice: "Advice") -> dict[str, Any]:
    """Return the advice as plain values for JSON."""
    candidates = [
        {
            "architecture": each.model.architecture,
            "size": each.model.size,
            "total_params": each.model.cost.total_params,
            "tokens": each.tokens,
            "bits_per_byte": each.prediction._asdict(),
            "is_best_in": each.is_best_in,
            "tokens_per_second": each.model.tokens_per_second,
            "memory": each.model.memory,
            "memory_bytes": each.model.memory_bytes,
            "state_bytes": each.model.state_bytes,
            "extrapolation": dict(zip(("size", "tokens"), each.extrapolation, strict=True)),
            "left_out_error": advice.left_out_errors[each.model.architecture],
            "law": {"entropy": each.law.entropy, "exponents": each.law.exponents, "noise": each.law.noise},
        }
        for each in advice.candidates
    ]
    changes = [{"hours": hours, "best": name} for hours, name in advice.changes]
    rung = None if advice.rung is None else asdict(advice.rung)
    return {"machine": asdict(config.machine), "hours": config.hours, "candidates": candidates, "changes": changes,
            "rung": rung}  # fmt: skip


def main(argv: list[str]) -> int:
    return run_command("advise", AdviseConfig, advise, argv)


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
