"""The smallest corpus, model and budget that exercise all parts, for tests of whole commands.

The text is drawn from a few short word lists with a fixed seed, so that it is reproducible and BPE finds repetitions.
"""

import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from src import train
from src.cli.command import run_cli
from src.cli.command_line import quote_paths
from src.cli.compose import register_schema
from src.config.schema import ROOT, CorpusConfig, DataConfig, TokenizerConfig, TrainConfig
from src.data.preparation.prepare import prepare_data
from src.runs import stage_runner
from src.runs.planning import Plan, plan_runs
from src.runtime.atomic_files import read_json
from src.runtime.records import write_record
from src.training import loop
from src.training.checkpoint import read_checkpoint

NAMES = "Lily Tom Mia Ben Zoe Max Anna Leo Ruby Sam Ida Finn".split()
ANIMALS = "dog cat frog bird fox hen fish bear duck mouse owl snail".split()
PLACES = "park garden pond kitchen forest school hill beach barn river".split()
THINGS = "ball kite cake stone box hat drum shell spoon lamp rope leaf".split()
MOODS = "happy sad proud tired brave shy hungry curious".split()
COMMANDS = ["ls -la", "grep -r TODO", "wc -l", "sort -u", "tar -czf out.tgz", "du -sh", "rm -f", "cat", "head -n 5"]
VARIABLES = "file dir name target count path host user line log".split()

EVALUATION = ["evaluation.probes=true", "evaluation.probe_sequences=2", "evaluation.scripts=2"]
"""Probes and generated scripts, which take as long as training a tiny run."""
SETTINGS = (
    "size.d_model=64 size.n_layers=2 training.seq_len=32 training.global_batch_size=4 training.micro_batch_size=2 "
    "training.max_steps=6 training.eval_sequences=4 training.test_sequences=4 training.log_every=1 "
    "training.eval_every=3 training.checkpoint_every=2 samples.max_new_tokens=8 runtime.device=cpu runtime.threads=1 "
    "tracking=none evaluation.probes=false evaluation.scripts=0"
).split()
"""Six steps of a model with a hundred thousand parameters; of the evaluation only the loss on the test split."""
CLOCK = ("wall_time_s", "perf/tokens_per_second", "perf/checkpoint_time_s", "perf/peak_memory_bytes")


def write_story(draw: random.Random) -> str:
    name, friend = draw.sample(NAMES, 2)
    animal, place, thing, mood = (draw.choice(words) for words in (ANIMALS, PLACES, THINGS, MOODS))
    return (
        f"Once upon a time, {name} went to the {place} with a {thing}. A {mood} {animal} sat there.\n"
        f'"Hello, {animal}!" said {name}. "Do you want my {thing}?" Then {friend} came, and they were all '
        f"{draw.choice(MOODS)}. They played {draw.randint(2, 90)} games until {name} was {draw.choice(MOODS)}.\n"
    )


def write_script(draw: random.Random) -> str:
    variable, other = draw.sample(VARIABLES, 2)
    return (
        f'#!/bin/bash\nset -e\n\n{variable}="${{1:-/tmp/{draw.choice(THINGS)}}}"\n'
        f'for {other} in "${variable}"/*.{draw.choice(ANIMALS)}; do\n'
        f'  if [ -f "${other}" ]; then\n    {draw.choice(COMMANDS)} "${other}" > /dev/null\n  fi\ndone\n'
        f'echo "{draw.choice(MOODS)} {draw.randint(1, 999)} ${variable}"\n'
    )


def write_corpus(folder: Path, seed: int = 0) -> DataConfig:
    """Write some hundred stories and scripts, and return their settings as `data=local` would."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    (folder / "stories.txt").write_text("<|endoftext|>\n".join(write_story(draw) for _ in range(400)), encoding="utf-8")
    (folder / "scripts").mkdir()
    for number in range(400):
        (folder / "scripts" / f"{number:03}.sh").write_text(write_script(draw), encoding="utf-8")
    return DataConfig(
        name="local",
        language=CorpusConfig("local", [str(folder / "stories.txt")], [".txt"]),
        code=CorpusConfig("local", [str(folder / "scripts")], [".sh"]),
        val_fraction=0.2,
    )


def data_dir(factory: pytest.TempPathFactory, seed: int = 0) -> Path:
    """Prepare the corpus once per session, and return its folder."""
    return _prepare(factory.getbasetemp() / f"tiny-{seed}", seed)


@cache
def _prepare(root: Path, seed: int) -> Path:
    data = write_corpus(root / "text", seed)
    return prepare_data(data, TokenizerConfig("bpe", 512), root / "outputs", log=lambda line: None).folder


def command_line(data: Path, output_root: Path, *more: str) -> list[str]:
    """Return the settings of a tiny run; a later setting replaces an earlier one with the same key."""
    merged = [f"data.dir={data}", f"output_root={output_root}", *SETTINGS, *more]
    return list({item.split("=", 1)[0]: item for item in merged}.values())


def plan(data: Path, output_root: Path, *more: str) -> Plan:
    """Plan a run without starting it."""
    register_schema(TrainConfig, "train")
    return plan_runs([quote_paths(command_line(data, output_root, *more))])[0]


def run(data: Path, output_root: Path, *more: str) -> int:
    """Run `src.train` in this process and return its exit status."""
    return train_main(command_line(data, output_root, *more))


def train_main(arguments: list[str]) -> int:
    """Run `src.train` as its module does and return its exit status."""
    logging.getLogger("src").disabled = False  # an earlier sweep or --help in this process lets Hydra disable it
    return run_cli(lambda: train.main(arguments))


def start(arguments: list[str], module: str = "src.train", **options: object) -> "subprocess.Popen[str]":
    """Start a command as a subprocess in its own process session."""
    settings: dict[str, object] = {
        "cwd": ROOT,
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "stdin": subprocess.DEVNULL,
        "env": dict(os.environ),
        "start_new_session": True,
    }
    return subprocess.Popen([sys.executable, "-m", module, *arguments], **{**settings, **options})  # pyright: ignore


def launch(processes: int, arguments: list[str]) -> "subprocess.Popen[str]":
    """Start `src.train` in several processes by torchrun."""
    return start(["--nproc-per-node", str(processes), "-m", "src.train", *arguments], "torch.distributed.run")


def train_together(processes: int, arguments: list[str]) -> str:
    """Train in several processes to the end and return the output."""
    process = launch(processes, arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def only_run(output_root: Path) -> Path:
    """Return the only run directory."""
    (folder,) = (output_root / "runs").iterdir()
    return folder


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run directory."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def drop_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove the values that depend on the clock."""
    return [{key: value for key, value in row.items() if key not in CLOCK} for row in rows]


def read_untimed_rows(folder: Path) -> list[dict[str, Any]]:
    """Read the metrics of a run directory without values that depend on the clock."""
    return drop_times(read_rows(folder))


def hash_weights(output_root: Path) -> dict[str, str]:
    """Return the hash of the last weights of stage language, by run."""
    folders = {folder.name: folder / "checkpoints" / "language" / "last" for folder in (output_root / "runs").iterdir()}
    return {name: read_checkpoint(folder).sha256["model.safetensors"] for name, folder in folders.items()}


def change_summary(folder: Path, **values: object) -> None:
    """Change values in the summary of a run."""
    write_record(folder / "summary.json", read_json(folder / "summary.json") | values)


def wait_until(condition: Callable[[], object], process: "subprocess.Popen[str]", seconds: float = 90) -> None:
    """Wait until a condition holds. Raises AssertionError if the process ends or the time is up before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_for_step(output_root: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Wait until a run has logged a step."""
    logs = output_root.glob
    wait_until(lambda: any(f'"step": {step},' in log.read_text() for log in logs("runs/*/metrics.jsonl")), process)


def break_step(patch: pytest.MonkeyPatch, number: int, words: str = "the device is on fire") -> None:
    """Make a training step of this process raise RuntimeError after `number` successful steps."""
    original, calls = loop.train_step, iter(range(1_000_000))

    def failing(*arguments: Any, **options: Any) -> Any:
        if next(calls) == number:
            raise RuntimeError(words)
        return original(*arguments, **options)

    patch.setattr(loop, "train_step", failing)


def stop_after_a_save(patch: pytest.MonkeyPatch, step: int = 0) -> None:
    """Interrupt this process by KeyboardInterrupt after its first checkpoint from a step on: exit status 130."""
    original = stage_runner.save_checkpoint

    def stop(folder: Path, model: Any, progress: Any, **options: Any) -> None:
        original(folder, model, progress, **options)
        if folder.name == "last" and progress.step >= step:
            raise KeyboardInterrupt

    patch.setattr(stage_runner, "save_checkpoint", stop)
