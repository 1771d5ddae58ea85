"""`python -m src.benchmark`: speed and memory of training, prefill and decoding by context length."""

import json
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from src.cli.command import run_cli
from src.cli.command_line import given_keys, has_hydra_flag, parse_arguments, quote_paths
from src.cli.compose import compose_config, expand_sweep, register_schema
from src.cli.data_path import expand_data_path
from src.cli.help import show_hydra_help
from src.cli.next_command import command_of, print_next, written_overrides
from src.cli.validation import validate
from src.config.formatting import count_of, fit_text, show_bytes, show_time, table, terminal_width
from src.config.schema import BenchmarkConfig, UserError
from src.model.cost.model_cost import model_cost
from src.model.size_matching import match_config
from src.reporting.plots.benchmark import describe, describe_profile, write_benchmark
from src.runs.resource_check import memory_needed
from src.runs.run_id import short_hash
from src.runtime.host import PROCESS_BYTES, machine_bytes
from src.runtime.log import LogFunction

OWN = (
    *("context_lens", "batch_size", "point_seconds", "peers", "peers_keep_memory", "profile", "format", "seed"),
    "dry_run",
)
"""Settings that are not for training, or that the next command has itself."""
PHASES = ("training", "prefill", "decoding")


def main(argv: list[str]) -> int:
    """Measure every configuration of the command line, and write the results."""
    argv = expand_data_path(quote_paths(argv))
    register_schema(BenchmarkConfig, "benchmark")
    arguments = parse_arguments(argv)
    if has_hydra_flag(arguments):
        show_hydra_help("benchmark", argv, arguments.overrides)
        return 0
    jobs = expand_sweep("benchmark", BenchmarkConfig, arguments.overrides).jobs
    configs = [compose_config(BenchmarkConfig, "benchmark", job) for job in jobs]
    for config in configs:
        _check(config)
    if configs[0].dry_run:
        print(describe_dry_run(configs))
        return 0
    # The profiler warns about memory that was allocated before it.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    first = configs[0]
    progress = partial(print, file=sys.stderr, flush=True) if first.format == "text" else lambda line: None
    if first.profile:
        found = _profile(configs, progress)
        print(json.dumps(found, indent=2) if first.format == "json" else describe_profile(found))
        return 0
    folder = Path(first.output_root).expanduser() / "benchmarks" / f"{first.size.name}-{short_hash(_names(configs))}"
    found: dict[str, Any] = {}
    for found in _measure(configs, progress):
        if first.format == "text":
            write_benchmark(found, folder)
    print(json.dumps(found, indent=2) if first.format == "json" else _text(found, folder))
    if first.format == "text":
        written = written_overrides(arguments.overrides, OWN)
        given = [] if "architecture" in given_keys(arguments.overrides) else ["architecture=dense,mamba,moe,hybrid"]
        print_next([command_of("train", "-m", *written, *given, "seed=0,1,2", "dry_run=true")])
    return 0


def _text(found: dict[str, Any], folder: Path) -> str:
    room = terminal_width()
    return f"{fit_text(describe(found, room).splitlines(), room)}\nBenchmark: {folder}"


def _check(config: BenchmarkConfig) -> None:
    """Check all settings before the first measurement. Raises: UserError."""
    if config.training.micro_batch_size == "auto":
        raise UserError("training.micro_batch_size=auto: a benchmark needs a number, such as 8")
    validate(config)
    if not config.context_lens:
        raise UserError(f"context_lens={config.context_lens}: give lengths in tokens, as in [256,1024]")
    if config.peers:
        from src.profiling.baselines import baseline_names, check_installed

        check_installed()
        baseline_names(match_config(config).spec)


def describe_dry_run(configs: list[BenchmarkConfig]) -> str:
    """Describe the measurements, with the memory of a training step at each context length."""
    first, available = configs[0], machine_bytes() - PROCESS_BYTES
    lengths = sorted(set(first.context_lens))
    rows: list[list[str]] = []
    for config in configs:
        spec, row = match_config(config).spec, [f"{config.architecture.name} {config.size.name}"]
        for length in lengths:
            sequences = max(1, config.training.micro_batch * config.training.seq_len // length)
            training = replace(config.training, seq_len=length, micro_batch_size=sequences, global_batch_size=sequences)
            needed = memory_needed(replace(config, training=training), spec).total
            row.append(show_bytes(needed) if needed <= available else f"{show_bytes(needed)}, too much")
        rows.append(row)
    header = ["training memory at a context of", *(f"{length:,}" for length in lengths)]
    n_series = len(PHASES) * len(configs) * (2 if first.peers else 1)
    lines = table(header, rows, header[:0:-1], terminal_width())
    return fit_text(
        [
            *lines,
            "",
            f"{n_series} series: {', '.join(PHASES)} of {count_of(len(configs), 'model')}"
            f"{' and of other libraries' if first.peers else ''}. A series ends with memory, or after the "
            f"first context that takes longer than point_seconds={first.point_seconds:g}; so at most about "
            f"{show_time(n_series * len(lengths) * first.point_seconds)}, and usually a fraction of it.",
            "Nothing was measured or written.",
        ],
        terminal_width(),
    )


def _measure(configs: list[BenchmarkConfig], log_progress: LogFunction) -> Iterator[dict[str, Any]]:
    """Yield all results after each point, so that an interrupted benchmark keeps them."""
    from src.profiling.benchmark import compare_speeds, measure_series

    lengths, seq_len = configs[0].context_lens, configs[0].training.seq_len
    at = min(lengths, key=lambda length: abs(length - seq_len))
    environment, series = _environment(configs[0]), dict[int, dict[str, Any]]()
    for number, config in enumerate(configs):
        match = match_config(config)
        cost = model_cost(match.spec, config.training.seq_len)
        for found in measure_series(config, match.spec, log_progress):
            series[number] = {**found, "solved": match.solved, **cost.totals()}
            compared = compare_speeds(list(series.values()), at)
            yield {
                **environment,
                "series": list(series.values()),
                "ratios_at": at,
                "ratios": compared.pop("train"),
                **{f"ratios_{name}": values for name, values in compared.items()},
            }


def _profile(configs: list[BenchmarkConfig], log_progress: LogFunction) -> dict[str, Any]:
    from src.profiling.step_profile import profile_step

    profiles: list[dict[str, Any]] = []
    for config in configs:
        log_progress(f"{config.architecture.name} {config.size.name}")
        found = profile_step(config, match_config(config).spec)
        profiles.append({"architecture": config.architecture.name, "size": config.size.name, **found})
    return {**_environment(configs[0]), "profiles": profiles}


def _environment(config: BenchmarkConfig) -> dict[str, Any]:
    import torch

    from src.runtime.device import open_device

    device = open_device(config.runtime)
    return {
        "device": device.kind,
        "precision": device.precision,
        "threads": device.threads,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "system": platform.platform()},
        "batch_size": config.batch_size,
        "train_tokens": config.training.micro_batch * config.training.seq_len,
        "peers_keep_memory": config.peers_keep_memory,
    }


def _names(configs: list[BenchmarkConfig]) -> list[Any]:
    return [asdict(config) | {"output_root": None, "format": None} for config in configs]


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
