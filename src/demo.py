"""`python -m src.demo`: train four small architectures in ten minutes, and say which learned most."""

import json
import shlex
import sys
import textwrap
import time
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from src.cli.command import run_cli
from src.cli.command_line import given_keys, has_hydra_flag, parse_arguments, quote_paths
from src.cli.compose import compose_config, expand_sweep, register_schema
from src.cli.help import show_hydra_help
from src.config.checks import check_settings
from src.config.formatting import show_count, show_time
from src.config.schema import DemoConfig, TrainConfig

if TYPE_CHECKING:
    import pandas as pd

EXPERIMENT = "+experiment=demo"
SHOWN_CHARACTERS = 240
"""Of each generated text."""
LARGER_MINUTES = 60


def main(argv: list[str]) -> int:
    """Choose the budget, run the sweep, and describe what came out; the exit status is that of `src.train -m`."""
    started = time.monotonic()
    arguments = parse_arguments(quote_paths(argv))
    if has_hydra_flag(arguments):
        register_schema(DemoConfig, "demo")
        show_hydra_help("demo", argv, arguments.overrides)
        return 0
    print("Comparing small models. Ctrl-C stops; the same command continues.", flush=True)
    from src.cli.data_path import expand_data_path
    from src.runs.planning import check_jobs

    register_schema(DemoConfig, "demo")
    overrides = [EXPERIMENT, *expand_data_path(arguments.overrides)]
    jobs = expand_sweep("demo", DemoConfig, overrides).jobs
    configs = [compose_config(DemoConfig, "demo", job) for job in jobs]
    check_settings(configs[0])
    register_schema(TrainConfig, "train")
    overrides = [item for item in overrides if given_keys([item]) != {"minutes"}]
    check_jobs(expand_sweep("train", TrainConfig, overrides).jobs)
    if not {"training.max_tokens", "training.tokens_per_parameter"} & set(given_keys(overrides)):
        overrides.append(f"training.max_tokens={choose_max_tokens(configs, jobs, started)}")
    sweep = expand_sweep("train", TrainConfig, overrides)
    if configs[0].dry_run:
        from src.sweep.dry_run import describe_dry_run

        print(describe_dry_run([sweep.jobs]))
        return 0
    from src.sweep.launch import run_sweep

    return run_sweep([sweep], lambda folder, report: describe(folder, report, argv))


def choose_max_tokens(configs: list[DemoConfig], jobs: list[list[str]], started: float) -> int:
    """Return the budget that was chosen for these jobs before, or choose one, and say so."""
    from src.runs.run_id import short_hash
    from src.sweep.time_budget import load_or_choose

    first = configs[0]
    file = Path(first.output_root).expanduser() / "demos" / f"{short_hash(jobs)}.json"
    is_known = file.exists()
    print(f"{len(jobs)} runs{'' if is_known else '; measuring the speed of this machine'}", flush=True)
    budget = load_or_choose(configs, first.minutes - (time.monotonic() - started) / 60, file, not first.dry_run)
    why = f"as chosen before in {file}" if is_known else f"about {show_time(budget['predicted_s'])} in all"
    print(f"{show_count(budget['max_tokens'])} tokens for each stage of a run: {why}", flush=True)
    return budget["max_tokens"]


def describe(folder: Path, report: Path, given: list[str]) -> str:
    """Return what a demo ends with: a chart, a text of each architecture and stage, the answer, the next commands."""
    from src.reporting import answer_lines, load_runs, verdict_chart, verdict_lines
    from src.reporting.plots.terminal import draw_text

    width, runs = get_terminal_size().columns, load_runs(folder)
    answer = [textwrap.fill(line, width) for line in answer_lines(runs) or verdict_lines(runs)]
    active = show_count(runs["active_non_embedding_params"].median())
    caution = (
        f"These models have {active} active parameters without embeddings: larger ones may give another order, as may "
        "a learning rate searched for each (python -m src.tune)."
    )
    parts = [*draw_text(verdict_chart(runs), width), *sample_lines(runs, width), "", *answer]
    parts += [textwrap.fill(caution, width), ""]
    return "\n".join([*parts, *next_commands(report, given)])


def sample_lines(runs: "pd.DataFrame", width: int) -> list[str]:
    """Return the beginning of one generated text of each architecture after each stage, in its first seed."""
    from src.reporting import load_samples

    texts: dict[tuple[str, str], dict[str, str]] = {}  # (stage, prompt) -> architecture -> text
    for sample in load_samples(runs):
        of_prompt = texts.setdefault((sample["stage"], sample["prompt"]), {})
        of_prompt.setdefault(sample["architecture"], " ".join(sample["text"][:SHOWN_CHARACTERS].split()))
    first_of_stage = {stage: (prompt, found) for (stage, prompt), found in reversed(texts.items())}
    lines: list[str] = []
    for stage, (prompt, found) in reversed(first_of_stage.items()):
        lines += ["", f"Texts after stage {stage}, continuing {json.dumps(prompt)}"]
        for name, text in found.items():
            lines += textwrap.wrap(text, width, initial_indent=f"{name}: ", subsequent_indent="  ")
    return lines


def next_commands(report: Path, given: list[str]) -> list[str]:
    """Return the three commands that come next, each with its cost."""
    others = [item for item in given if not item.startswith(("minutes=", "data="))]
    data = [item for item in given if item.startswith("data=")]
    command = ["python", "-m", "src.demo", *others]
    larger = [*command, *data, "size=nano", f"minutes={LARGER_MINUTES}"]
    return [
        "Next",
        f"  open the report:\n    {report.absolute().as_uri()}",
        f"  your own text, in the same time:\n    {shlex.join(command)} data=PATH",
        f"  larger models, in {LARGER_MINUTES} minutes:\n    {shlex.join(larger)}",
    ]


if __name__ == "__main__":
    sys.exit(run_cli(lambda: main(sys.argv[1:])))
