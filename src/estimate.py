"""`python -m src.estimate architecture=moe size=large`: cost of a model by formula, without torch."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from src.cli.command import run_cli
from src.cli.command_line import has_hydra_flag, parse_arguments, quote_paths, varying_overrides
from src.cli.compose import compose_config, expand_sweep, register_schema
from src.cli.data_path import expand_data_path
from src.cli.help import show_hydra_help
from src.cli.next_command import command_of, print_next, written_overrides
from src.cli.validation import validate
from src.config.formatting import (
    NOTHING,
    fit_text,
    show_bytes,
    show_count,
    show_flops,
    show_time,
    table,
    terminal_width,
)
from src.config.schema import EstimateConfig, ModelSpec, UserError
from src.model.blocks import kind_of
from src.model.blocks.kind import no_activations
from src.model.cost.memory_estimate import checkpoint_bytes, inference_memory
from src.model.cost.model_cost import ModelCost, model_cost
from src.model.size_matching import match_config
from src.runs.resource_check import (
    largest_by_estimate,
    leanest_memory,
    memory_needed,
    precision_of,
    resolve_micro_batch,
    suggest_settings,
    with_micro_batch,
)
from src.runs.summary import read_summary
from src.runtime.host import APPLE_DEVICE, PROCESS_BYTES, has_math_attention, machine_bytes
from src.training.stage_budget import stage_tokens

OWN = ("format", "tokens_per_second", "measured", "context_lens", "n_devices", "dry_run")
"""Settings that are not for training."""
CONTEXT_FLOPS = ("forward_flops_per_token", "executed_forward_flops_per_token", "train_flops_per_token")
GIB = 1 << 30
MAC, MACS = "Mac", (16, 32, 48)
"""Name, and memory in GiB, of the Macs in the table."""
GPUS = (24, 80)
"""Memory in GB of the GPUs in the table of a model on several."""


def devices(n_devices: int = 1) -> dict[str, int]:
    """Return the bytes that a program can use on each machine in the table: Macs and this one, or several GPUs.

    Metal recommends two thirds of a Mac's memory for one program, three quarters above 36 GB. For this machine: all
    memory, or the limit of its container.
    """
    if n_devices > 1:
        return {f"{n_devices} GPUs of {gb} GB": gb * 10**9 for gb in GPUS}
    known = {f"{gib} GB {MAC}": gib * GIB * (3 if gib > 36 else 2) // (4 if gib > 36 else 3) for gib in MACS}
    return known | {"this machine": machine_bytes()}


def estimate(config: EstimateConfig) -> dict[str, Any]:
    """Estimate one configuration; return plain values for JSON.

    Raises:
        UserError: a setting is invalid, or no model matches.
    """
    config = on_devices(config)
    validate(config)
    if not config.context_lens:
        raise UserError("context_lens: empty; give at least one length in tokens, as in [1024]")
    training, runtime = config.training, config.runtime
    match = match_config(config)
    spec, cost = match.spec, model_cost(match.spec, training.seq_len)
    resolved = resolve_micro_batch(config, spec, machine_bytes() - PROCESS_BYTES)
    memory = memory_needed(resolved, spec)
    keeps_weights = has_math_attention(runtime.device)
    inference = inference_memory(spec, context_len=training.seq_len, batch_size=1, math_attention=keeps_weights)
    tokens = sum(stage_tokens(config).values())
    speed = _tokens_per_second(config, cost)
    return {
        "architecture": config.architecture.name,
        "size": config.size.name,
        "recipe": config.recipe.name,
        "match": config.match,
        "match_residual": match.residual,
        "solved": match.solved,
        "vocab_size": spec.vocab_size,
        "seq_len": training.seq_len,
        **cost.totals(),
        "executed_train_flops_per_token": cost.executed_train_flops_per_token(runtime.activation_checkpointing),
        "components": {name: asdict(part) for name, part in cost.components.items()},
        "contexts": _contexts(spec, config.context_lens),
        "micro_batch_size": resolved.training.micro_batch,
        "micro_batch_size_asked": training.micro_batch_size,
        "activation_checkpointing": runtime.activation_checkpointing,
        "n_devices": config.n_devices,
        "parallel": runtime.parallel,
        "memory": training.memory,
        "leanest_memory": leanest_memory(config),
        "precision": precision_of(config),
        "math_attention": keeps_weights,
        "train_memory_bytes": memory.total,
        "train_memory": memory.parts(),
        "not_in_memory": [kind for kind in dict.fromkeys(spec.blocks) if kind_of(kind).activations is no_activations],
        "prefill_memory_bytes": inference.prefill.total,
        "decode_memory_bytes": inference.decode.total,
        "checkpoint_bytes": checkpoint_bytes(spec, training.memory)._asdict(),
        "devices": _fits(config, spec),
        "tokens": tokens,
        "train_flops": tokens * cost.train_flops_per_token,
        "tokens_per_second": speed,
        "time_s": None if speed is None else tokens / speed,
    }


def on_devices(config: EstimateConfig) -> EstimateConfig:
    """Return the settings of a run with a process for each of `n_devices` GPUs, in shards by default."""
    if config.n_devices == 1:
        return config
    runtime = config.runtime
    if has_math_attention(runtime.device):
        raise UserError(
            f"n_devices={config.n_devices}: several processes cannot share an Apple GPU; name another runtime"
        )
    parallel = "shard" if runtime.parallel == "auto" else runtime.parallel
    launcher = replace(config.launcher, processes_per_job=config.n_devices)
    return replace(config, launcher=launcher, runtime=replace(runtime, parallel=parallel))


def _contexts(spec: ModelSpec, lengths: Sequence[int]) -> list[dict[str, Any]]:
    """Return FLOPs and state at each context length within the learned positions."""
    longest = spec.learned_positions or max(lengths)
    costs = [model_cost(spec, length) for length in sorted(lengths) if length <= longest]
    return [{name: getattr(cost, name) for name in ("context_len", *CONTEXT_FLOPS, "state_bytes")} for cost in costs]


def _fits(asked: EstimateConfig, spec: ModelSpec) -> dict[str, dict[str, Any]]:
    """Return for each machine whether training fits, and the largest micro batch that fits."""
    found = {}
    on_mac = replace(asked, runtime=replace(asked.runtime, device=APPLE_DEVICE))
    for name, n_bytes in devices(asked.n_devices).items():
        available = n_bytes - PROCESS_BYTES
        config = on_mac if name.endswith(MAC) else asked
        plain = largest_by_estimate(config, spec, available)
        recomputed, lean = (
            largest_by_estimate(config, spec, available, activation_checkpointing=True, memory=form)
            for form in (config.training.memory, leanest_memory(config))
        )
        is_auto = config.training.micro_batch_size == "auto"
        smallest = with_micro_batch(config, 1) if is_auto else config
        found[name] = {
            "available_bytes": available,
            "fitting": None if plain else suggest_settings(smallest, spec, available).removeprefix("; "),
            "fits": plain > 0 if is_auto else memory_needed(config, spec).total <= available,
            "largest_micro_batch": plain,
            "largest_micro_batch_with_activation_checkpointing": recomputed,
            "largest_micro_batch_with_lean": lean,
        }
    return found


def _tokens_per_second(config: EstimateConfig, cost: ModelCost) -> float | None:
    """Return the given speed, or the one from a measured run's FLOP/s."""
    if config.tokens_per_second is not None:
        return config.tokens_per_second
    if config.measured is None:
        return None
    summary = read_summary(Path(config.measured).expanduser())
    speed = summary and summary["final"] and summary["final"]["tokens_per_second"]
    flops = summary and summary["accounting"].get("train_flops_per_token")
    if not speed or not flops:
        raise UserError(f"measured={config.measured}: no summary.json with a speed there; name a finished run")
    return speed * flops / cost.train_flops_per_token


def describe(found: dict[str, Any]) -> str:
    """Format one estimate as text."""
    solved = "".join(f", {name}={value}" for name, value in found["solved"].items())
    recompute = " with activation checkpointing" if found["activation_checkpointing"] else ""
    memory = "" if found["memory"] == "full" else f", training.memory={found['memory']}"
    held = "in shards" if found["parallel"] == "shard" else "each with the whole model"
    where = f" of each of {found['n_devices']} devices, {held}," if found["n_devices"] > 1 else ""
    kept = ", attention keeps its weights" if found["math_attention"] else ""
    parts = "  ".join(f"{name} {show_bytes(value)}" for name, value in found["train_memory"].items() if value)
    lines = [
        f"{found['architecture']} {found['size']}, recipe {found['recipe']}, vocabulary {found['vocab_size']:,}, "
        f"context {found['seq_len']:,}",
        f"Matched by {found['match']}: {found['match_residual']:+.2%} of dense{solved}",
        "",
        *_component_lines(found),
        "",
        f"Embedding parameters {show_count(found['embedding_params'])} (tokens, positions, head); "
        f"all others {show_count(found['non_embedding_params'])}, "
        f"{show_count(found['active_non_embedding_params'])} of them active",
        f"Training: {show_flops(found['train_flops_per_token'])} FLOPs per token needed, "
        f"{show_flops(found['executed_train_flops_per_token'])} executed{recompute}",
        "",
        *_context_lines(found),
        "",
        f"Training memory{where} at micro batch {_micro_batch(found)}, {found['precision']}{memory}{recompute}{kept}: "
        f"{show_bytes(found['train_memory_bytes'])}",
        f"  {parts}",
        *(f"  without the activations of {kind}, which does not state them" for kind in found["not_in_memory"]),
        f"Inference memory, one sequence of {found['seq_len']:,}: prefill {show_bytes(found['prefill_memory_bytes'])}, "
        f"decoding {show_bytes(found['decode_memory_bytes'])}",
        f"Checkpoints: best {show_bytes(found['checkpoint_bytes']['best'])}, "
        f"last {show_bytes(found['checkpoint_bytes']['last'])}",
        *_device_lines(found),
        "That is of tensors; a process on Linux's CPU allocator was measured at 1.3 to 2.1 times as much.",
        f"Tokens: {show_count(found['tokens'])}, {show_flops(found['train_flops'])} FLOPs; {_time_line(found)}",
    ]
    return "\n".join(lines)


def _micro_batch(found: dict[str, Any]) -> str:
    """Format the micro batch; mark an estimate for `auto`, which a run measures."""
    return f"{found['micro_batch_size']}{' (auto)' if found['micro_batch_size_asked'] == 'auto' else ''}"


def _component_lines(found: dict[str, Any]) -> list[str]:
    header = ["component", "parameters", "active", "FLOPs/token needed", "executed", "state"]
    rows = [
        [
            name,
            show_count(part["params"]),
            show_count(part["active_params"]),
            show_flops(part["flops"] or None),
            show_flops(part["executed_flops"] or None),
            show_bytes(part["state_bytes"] or None),
        ]
        for name, part in found["components"].items()
    ]
    params = (show_count(found[name]) for name in ("total_params", "active_params"))
    flops = (show_flops(found[name]) for name in ("forward_flops_per_token", "executed_forward_flops_per_token"))
    rows.append(["all", *params, *flops, show_bytes(found["state_bytes"] or None)])
    return table(header, rows, ("executed", "state", "active"), terminal_width())


def _context_lines(found: dict[str, Any]) -> list[str]:
    header = ["context", "forward FLOPs/token needed", "executed", "training FLOPs/token", "state per sequence"]
    rows = [
        [
            f"{row['context_len']:,}",
            *(show_flops(row[name]) for name in CONTEXT_FLOPS),
            show_bytes(row["state_bytes"] or None),
        ]
        for row in found["contexts"]
    ]
    return table(header, rows, ("executed", "forward FLOPs/token needed"), terminal_width())


def _device_lines(found: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, device in found["devices"].items():
        largest = f"largest micro batch {device['largest_micro_batch']}"
        if not device["largest_micro_batch"]:
            largest = device["fitting"].partition(", or ")[0]
        else:
            if not found["activation_checkpointing"]:
                recomputed = device["largest_micro_batch_with_activation_checkpointing"]
                largest += f", {recomputed} with activation checkpointing"
            if found["memory"] != found["leanest_memory"]:
                largest += f", {device['largest_micro_batch_with_lean']} with training.memory=lean as well"
        fits = "fits" if device["fits"] else "does not fit"
        lines.append(f"{name} ({show_bytes(device['available_bytes'])} to use): {fits}; {largest}")
    return lines


def _time_line(found: dict[str, Any]) -> str:
    if found["time_s"] is None:
        return "for the time, give tokens_per_second=N or measured=RUN"
    return f"{show_time(found['time_s'])} at {found['tokens_per_second']:,.0f} tokens/s"


def describe_grid(jobs: list[list[str]], found: list[dict[str, Any] | UserError]) -> str:
    """Format estimates as a table with one row per job, followed by errors."""
    names = list(dict.fromkeys(name for one in found if not isinstance(one, UserError) for name in one["devices"]))
    header = ["configuration", "parameters", "active", "training FLOPs/token", "state", "memory", "storage", *names]
    rows, problems = [], []
    for job, one in zip(varying_overrides(jobs), found, strict=True):
        if isinstance(one, UserError):
            rows.append([job, *[NOTHING] * (len(header) - 1)])
            problems.append(f"{job}: {one}")
            continue
        rows.append(
            [
                job,
                show_count(one["total_params"]),
                show_count(one["active_params"]),
                show_flops(one["train_flops_per_token"]),
                show_bytes(one["state_bytes"] or None),
                f"{show_bytes(one['train_memory_bytes'])} at {_micro_batch(one)}",
                show_bytes(sum(one["checkpoint_bytes"].values())),
                *(_batches(one["devices"][name]) if name in one["devices"] else NOTHING for name in names),
            ]
        )
    note = (
        "Estimates. Memory: of training, at the micro batch after it. Storage: the two checkpoints of a stage. For "
        "each machine: the largest micro batch that fits / with activation checkpointing / with training.memory=lean "
        "as well."
    )
    droppable = ["storage", "state", "active", *reversed(names[:-1]), "training FLOPs/token", "parameters"]
    return "\n".join([*table(header, rows, droppable, terminal_width()), "", note, *problems])


def _batches(device: dict[str, Any]) -> str:
    keys = ("largest_micro_batch", *(f"largest_micro_batch_with_{way}" for way in ("activation_checkpointing", "lean")))
    return " / ".join(str(device[key] or NOTHING) for key in keys)


def main(argv: list[str]) -> int:
    """Print one estimate, or a table over a grid with -m; nothing is built or written."""
    argv = expand_data_path(quote_paths(argv))
    register_schema(EstimateConfig, "estimate")
    arguments = parse_arguments(argv)
    if has_hydra_flag(arguments):
        show_hydra_help("estimate", argv, arguments.overrides)
        return 0
    sweep = expand_sweep("estimate", EstimateConfig, arguments.overrides)
    if not arguments.multirun and not sweep.is_from_experiment:
        if len(sweep.jobs) > 1:
            raise UserError("several values make a table over a grid; add -m")
        config = compose_config(EstimateConfig, "estimate", arguments.overrides)
        found = estimate(config)
        if config.format == "json":
            print(json.dumps(found, indent=2))
        else:
            print(fit_text(describe(found).splitlines(), terminal_width()))
            print_next([command_of("train", *written_overrides(arguments.overrides, OWN), "dry_run=true")])
        return 0
    configs = [compose_config(EstimateConfig, "estimate", job) for job in sweep.jobs]
    results = [_estimate_or_error(config) for config in configs]
    if configs[0].format == "json":
        values = [{"error": str(one)} if isinstance(one, UserError) else one for one in results]
        rows = [{"overrides": job, **value} for job, value in zip(sweep.jobs, values, strict=True)]
        print(json.dumps({"estimates": rows}, indent=2))
    else:
        print(fit_text(describe_grid(sweep.jobs, results).splitlines(), terminal_width()))
        print_next([command_of("train", "-m", *written_overrides(arguments.overrides, OWN), "dry_run=true")])
    return 0


def _estimate_or_error(config: EstimateConfig) -> dict[str, Any] | UserError:
    try:
        return estimate(config)
    except UserError as error:
        return error


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
