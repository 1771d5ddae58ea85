"""Kill runs at random times and compare their results with an uninterrupted run.

    python -m tests.integration.torture 400      kill 400 times, spread over all architectures (make torture)

Half of the kills come at a random time. The other half come just before a random file operation, because saving is the
most vulnerable phase. Both are drawn over the whole length of a run with two stages, so that the first kill of an
experiment hits any point of the run and later kills hit the remaining part. An experiment ends when an attempt finishes
before its kill is due; then every file is compared bit by bit. A run that restarts from the beginning would give the
same result, so after each kill the test checks that the saved checkpoint still exists. Every attempt is a fork of this
process, which has loaded torch and has computed nothing: an attempt costs half a second instead of three.
"""

import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimizer imports it, which takes a second in every fork
import yaml
from safetensors.torch import load_file

import src.runs.runner
import src.training.checkpoint
from src.config.schema import CONF
from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.torture.fork import start_fork, wait_for_fork
from tests.torture.forked import prepare_in_a_fork
from tests.torture.operations import kill_before

ARCHITECTURES = sorted(path.stem for path in (CONF / "architecture").glob("*.yaml"))
SUMMARY_TIMES = ("wall_time_s", "tokens_per_second", "peak_memory_bytes", "checkpoint_time_s")


def smallest_layer_count(architecture: str) -> int:
    """Return the smallest number of layers, at least two, that contains the full pattern of an architecture."""
    pattern = yaml.safe_load((CONF / "architecture" / f"{architecture}.yaml").read_text("utf-8"))["pattern"]
    return max(2, len(pattern) // 2)


def read_comparable_content(file: Path) -> Any:
    """Read a file of a run without times and values that depend on the machine or the date."""
    if file.name == "metrics.jsonl":
        return tiny.read_untimed_rows(file.parent)
    if file.suffix == ".safetensors":
        return {name: _bits(tensor) for name, tensor in load_file(file).items()}
    if file.name == "state.pt":
        state = _bits(torch.load(file, weights_only=True))
        for key in ("wall_time_s", "train_time_s", "shared_wall_time_s", "shared_train_time_s", "checkpoint_time_s"):
            del state["progress"][key]
        return state
    if file.name == "meta.json":
        return {key: value for key, value in read_json(file).items() if key in ("run", "spec", "tokenizer_sha256")}
    if file.name == "summary.json":
        summary = read_json(file)
        del summary["contract"]["git_commit"]  # the commit may change while this runs
        del summary["record_sha256"], summary["metrics"]["sha256"]  # they include times
        for values in (summary["final"], *summary["stages"].values()):
            for key in SUMMARY_TIMES:
                values.pop(key, None)
            for key in ("wall_time_s", "train_time_s"):
                values.get("shared", {}).pop(key, None)
        return summary
    return None if file.name == "train.log" else file.read_bytes()


def _bits(value: Any) -> Any:
    """Convert tensors in nested values into objects that are equal only if every bit is equal."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _bits(item) for key, item in value.items()}
    return [_bits(item) for item in value] if isinstance(value, list) else value


def differences(one: Path, other: Path) -> list[str]:
    """List the files of two run directories that differ or exist in only one of them, temporary files included."""
    names = [{str(file.relative_to(run)) for file in run.rglob("*")} for run in (one, other)]
    both = sorted(name for name in names[0] & names[1] if (one / name).is_file() and not name.endswith("config.yaml"))
    unequal = [name for name in both if read_comparable_content(one / name) != read_comparable_content(other / name)]
    return sorted(names[0] ^ names[1]) + unequal


@dataclass
class KillCount:
    """The number of kills and of experiments of one architecture."""

    kills: int = 0
    experiments: int = 0


class Torturer:
    """One architecture and its uninterrupted reference run."""

    def __init__(self, architecture: str, data: Path, root: Path, seed: int) -> None:
        self.root, self.draw, self.kill_count = (
            root / architecture,
            random.Random(f"{architecture} {seed}"),
            KillCount(),
        )
        self.root.mkdir(parents=True)
        more = (
            "stage=full",
            f"architecture={architecture}",
            f"size.n_layers={smallest_layer_count(architecture)}",
            *tiny.EVALUATION,
        )
        self.plan = tiny.plan(data, self.root, *more)
        self.count, self.record = self.root / "operations", self.root / "saved"
        started = time.perf_counter()
        assert self._train_in_fork("uninterrupted") == 0, self._read_output()
        self.seconds = time.perf_counter() - started
        self.operations = int(self.count.read_text())

    def torture(self, kills: int) -> None:
        """Kill at least `kills` times and finish each killed run. Raises AssertionError if a result differs."""
        while self.kill_count.kills < kills:
            self.kill_count.experiments += 1
            experiment = f"experiment-{self.kill_count.experiments}"
            self.record.unlink(missing_ok=True)
            while (status := self._train_and_kill(experiment)) == -signal.SIGKILL:
                self.kill_count.kills += 1
                self._check_saved_checkpoint(experiment)
            assert status == 0, f"{self.root / experiment}: exit status {status}\n{self._read_output()}"
            unequal = differences(self._folder("uninterrupted"), self._folder(experiment))
            assert not unequal, f"{self.root / experiment}: differs from an uninterrupted run in {unequal}"

    def _folder(self, experiment: str) -> Path:
        return self.root / experiment / self.plan.folder.name

    def _check_saved_checkpoint(self, experiment: str) -> None:
        """Check that the last recorded checkpoint or a later one exists, possibly as `last.old`."""
        if not self.record.exists() or not (recorded := self.record.read_text("utf-8")):
            return
        stage, step = recorded.split()
        places = [
            self._folder(experiment) / "checkpoints" / stage / name / "meta.json" for name in ("last", "last.old")
        ]
        steps = [read_json(place)["progress"]["step"] for place in places if place.exists()]
        assert steps and steps[0] >= int(step), f"{places[0]}: step {step} was saved, {steps} are there"

    def _record_checkpoints(self) -> None:
        """Record each checkpoint `last` that this process has written, also in its thread."""
        replace_folder = src.training.checkpoint.replace_folder

        @contextmanager
        def replace_and_record(folder: Path) -> Iterator[Path]:
            with replace_folder(folder) as temporary:
                yield temporary
                progress = read_json(temporary / "meta.json")["progress"]
            if folder.name == "last":
                self.record.write_text(f"{progress['stage']} {progress['step']}", encoding="utf-8")

        src.training.checkpoint.replace_folder = replace_and_record

    def _train_and_kill(self, experiment: str) -> int:
        if self.draw.random() < 0.5:
            return self._train_in_fork(experiment, after_seconds=self.draw.uniform(0, self.seconds))
        return self._train_in_fork(experiment, before_operation=self.draw.randrange(self.operations))

    def _train_in_fork(
        self, experiment: str, *, after_seconds: float | None = None, before_operation: int = sys.maxsize
    ) -> int:
        """Train in a fork that is killed at a given point unless it ends earlier; return its exit status."""
        fork_id = start_fork(partial(self._train, experiment, before_operation), self.root / "output")
        if after_seconds is not None:
            time.sleep(after_seconds)
            os.kill(fork_id, signal.SIGKILL)  # a process that has ended exists until it is waited for
        return wait_for_fork(fork_id)

    def _train(self, experiment: str, before_operation: int) -> None:
        """Train in this process, which is a fork."""
        folder = self._folder(experiment)
        self._record_checkpoints()
        done = kill_before(before_operation)
        if not src.runs.runner.is_done(folder):
            src.runs.runner.execute_run(self.plan.config, self.plan.data, folder, self.plan.init)
        self.count.write_text(str(done[0]))

    def _read_output(self) -> str:
        return (self.root / "output").read_text(encoding="utf-8")


def main(kills: int, architectures: list[str], seed: int) -> None:
    """Kill runs of each architecture and print the number of survived kills."""
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        root = Path(name)
        data = prepare_in_a_fork(root)
        for architecture in architectures:
            torturer = Torturer(architecture, data, root, seed)
            torturer.torture(-(-kills // len(architectures)))
            count = torturer.kill_count
            print(
                f"{architecture}: {count.kills} kills in {count.experiments} experiments, all bit-identical", flush=True
            )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(",") if len(sys.argv) > 2 else ARCHITECTURES, seed=0)
