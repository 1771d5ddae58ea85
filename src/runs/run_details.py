"""Describe one run, and compare two: settings, results, checkpoints, origin and commands."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from src.cli.command_line import format_argument
from src.cli.compose import read_run_config
from src.config.comparability import flatten_settings
from src.config.formatting import NOTHING, show_bytes, show_count, show_flops, show_time, table
from src.config.schema import UserError
from src.reporting.data.json_values import Record, as_dict, as_number, clean_text, read_or_none
from src.reporting.data.runs import load_runs, stage_names, to_records
from src.runs.lookup import (
    SWEEPS,
    TUNING,
    current_status,
    find_run,
    folder_bytes,
    list_runs,
    read_settings,
    root_of,
    runs_started_from,
    sweeps_of,
)
from src.runs.repeat_command import chosen_groups, default_settings, repeat_command
from src.runtime.atomic_files import reject_symlinks

ALWAYS_DIFFERENT = ("output_root", "sweep_name", "tracking.group", "rerun", "dry_run")
"""Settings that say where a run is, not what it computes."""
MISSING = "(missing)"


def _show_loss(value: Any) -> str:
    return NOTHING if value is None else f"{value:.4f}"


RESULTS = {
    "tokens": show_count,
    "train_flops": show_flops,
    "val_loss": _show_loss,
    "val_bits_per_byte": _show_loss,
    "val_accuracy": _show_loss,
    "test_loss": _show_loss,
    "test_bits_per_byte": _show_loss,
    "test_accuracy": _show_loss,
    "tokens_per_second": show_count,
    "peak_memory_bytes": show_bytes,
    "wall_time_s": show_time,
}
"""Results of a stage and of a run, and how each is shown."""


def show_lines(name: str, root: Path) -> list[str]:
    """Describe a run. Raises: UserError if there is no such run, or it contains a symbolic link."""
    folder = find_run("show", name, root)
    record = _load_record(folder)
    words = ("architecture", "size", "recipe", "stage", "data")
    about = ", ".join(f"{word} {record[word]}" for word in words if record[word])
    lines = [f"{folder}: {record['status']}, {show_bytes(folder_bytes(folder))}", f"  {about}, seed {record['seed']}"]
    if record["error"]:
        lines.append(f"  error: {record['error']}")
    lines += ["", "Settings that differ from the defaults", *_setting_lines(folder)]
    if results := _stage_table(record):
        lines += ["", "Results", *results]
    if checkpoints := _checkpoint_table(folder):
        lines += ["", "Checkpoints", *checkpoints]
    lines += ["", "Origin", *_origin_lines(folder, record)]
    return [*lines, "", "Commands", *_command_lines(folder, record)]


def diff_lines(names: list[str], root: Path) -> list[str]:
    """Compare the settings and results of two runs. Raises: UserError unless two different runs are given."""
    folders = [find_run("diff", name, root) for name in names]
    if len(folders) != 2 or folders[0].resolve() == folders[1].resolve():
        raise UserError(f"diff=[{','.join(names)}]: give two different runs, as in diff=[NAME,NAME]")
    settings = [_printable_settings(folder) for folder in folders]
    keys = [key for key in dict.fromkeys([*settings[0], *settings[1]]) if key not in ALWAYS_DIFFERENT]
    rows = [[key, *(values.get(key, MISSING) for values in settings)] for key in keys]
    lines = [f"A: {folders[0]}", f"B: {folders[1]}", "", "Settings that differ"]
    differing = [f"  {key}: {one} | {other}" for key, one, other in rows if one != other]
    lines += differing or ["  none"]
    records = [_load_record(folder) for folder in folders]
    results = [["status", *(str(record["status"]) for record in records)]]
    results += [[key, *(show(record[key]) for record in records)] for key, show in RESULTS.items()]
    results.append(["disk", *(show_bytes(folder_bytes(folder)) for folder in folders)])
    return [*lines, "", *table(["result", "A", "B"], results)]


def _load_record(folder: Path) -> Record:
    """Return the row of a run. Raises: UserError if the run contains a symbolic link."""
    reject_symlinks(folder, "wandb")
    runs = load_runs(folder)
    (record,) = to_records(runs)
    return record | {"stages": stage_names(runs), "status": current_status(record["status"], folder)}


def _printable_settings(folder: Path) -> dict[str, str]:
    """Return the flat settings of a run as text. Raises: UserError if its config.yaml is missing or damaged."""
    return {key: _show_value(value) for key, value in flatten_settings(read_settings(folder)).items()}


def _show_value(value: Any) -> str:
    text = value if isinstance(value, str) and value else json.dumps(value, default=str)
    return clean_text(text).replace("\n", "\\n")


def _setting_lines(folder: Path) -> list[str]:
    """List the chosen groups, and the settings that differ from those of the groups."""
    try:
        config = read_run_config(folder / "config.yaml")
        values = flatten_settings(read_settings(folder))
    except UserError as error:
        return [f"  not known: {error}"]
    choices = chosen_groups(config)
    default = default_settings(choices)
    lines = [f"  {choice}" for choice in choices]
    for key, value in values.items():
        known = _show_value(default[key]) if key in default else MISSING
        if known != _show_value(value) and key not in ALWAYS_DIFFERENT:
            lines.append(f"  {key}={_show_value(value)} (default: {known})")
    return lines or ["  none"]


def _stage_table(record: Record) -> list[str]:
    shown = {
        key: [record.get(f"{stage}/{key}") for stage in record["stages"]]
        for key in RESULTS
        if any(record.get(f"{stage}/{key}") is not None for stage in record["stages"])
    }
    rows = [[key, *(RESULTS[key](value) for value in values)] for key, values in shown.items()]
    return table(["stage", *record["stages"]], rows) if rows else []


def _checkpoint_table(folder: Path) -> list[str]:
    rows: list[list[str]] = []
    for place in sorted(folder.glob("checkpoints/*/*")):
        if not (place / "meta.json").is_file():
            continue
        progress = as_dict(as_dict(read_or_none(place / "meta.json")).get("progress"))
        step = as_number(progress.get("step"))
        name = clean_text(place.relative_to(folder / "checkpoints"))
        rows.append([name, NOTHING if step is None else f"{step:,.0f}", show_bytes(folder_bytes(place))])
    return table(["checkpoint", "step", "size"], rows) if rows else []


def _origin_lines(folder: Path, record: Record) -> list[str]:
    """Say where the weights and the learning rate come from, and what refers to the run."""
    source, root = None, root_of(folder)
    with suppress(UserError):
        source = read_settings(folder).get("init_from")
    lineage, search = (record["contract"].get(key) for key in ("init_from", "learning_rate_search"))
    lines = [f"  weights: {clean_text(source)} ({lineage})" if source else "  weights: new"]
    if search not in (None, "none"):
        lines.append(f"  learning rate: {search}")
    listed = [sweep for sweep, runs in sweeps_of(root, SWEEPS, TUNING, ignore_damage=True).items()
              if folder.resolve() in runs]  # fmt: skip
    lines += [f"  listed by: {sweep}" for sweep in listed]
    return lines + [f"  start of: {other}" for other in runs_started_from(folder, list_runs(root))]


def _command_lines(folder: Path, record: Record) -> list[str]:
    command = None
    with suppress(UserError):
        command = repeat_command(folder)
    unknown = "not known: these settings do not give the name of this run"
    verb = "repeat" if record["status"] == "done" else "resume"
    lines = [f"  {verb}: {command or unknown}"]
    if any(folder.glob("checkpoints/*/best/meta.json")):
        is_text = (folder / "tokenizer.json").is_file()
        name, prompt = ("generate", " prompt='Once upon a'") if is_text else ("evaluate", "")
        lines.append(f"  {name}: python -m src.{name} {format_argument('run', str(folder))}{prompt}")
    return [*lines, f"  report: python -m src.report {format_argument('dir', str(folder))}"]
