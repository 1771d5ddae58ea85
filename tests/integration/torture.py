"""Kill runs at random instants, again and again, and compare how they end with a run that nobody killed.

    python -m tests.integration.torture 400      kill 400 times, spread over all architectures (make torture)

Half of the kills come at a random time, in whatever the run is doing then; half come just before a random operation on
files, since saving is where a kill could hurt most. Both are drawn over the whole length of the run, both stages, so
that the first kills of a course hit it anywhere and the later ones hit what is left of it. A course ends when a sitting
is done before its kill is due; then every file is compared, to the bit. A run that began anew would end alike, so after
each kill what was saved has to be there still. Every sitting is a fork of this process, which
has torch loaded and has computed nothing: a killed run costs half a second instead of three.
"""

import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # the first optimizer loads it, for a second in every fork
import yaml
from safetensors.torch import load_file

import src.runs.runner
import src.runs.stage_runner
from src.config.schema import CONF
from src.model.language_model import LanguageModel
from src.runtime.atomic_files import read_json
from src.training.checkpoint import Progress
from tests.integration import tiny
from tests.torture.fork import start_fork, wait_for_fork
from tests.torture.forked import prepare_in_a_fork
from tests.torture.operations import kill_before

ARCHITECTURES = sorted(path.stem for path in (CONF / "architecture").glob("*.yaml"))
SUMMARY_TIMES = ("wall_time_s", "tokens_per_second", "peak_memory_bytes")


def layers_of(architecture: str) -> int:
    """Return the fewest layers, two at least, that hold the pattern of an architecture whole."""
    pattern = yaml.safe_load((CONF / "architecture" / f"{architecture}.yaml").read_text("utf-8"))["pattern"]
    return max(2, len(pattern) // 2)


def content(file: Path) -> Any:
    """Read a file of a run, all but times and what tells one machine or day from another."""
    if file.name == "metrics.jsonl":
        return tiny.settled(file.parent)
    if file.suffix == ".safetensors":
        return {name: _bits(tensor) for name, tensor in load_file(file).items()}
    if file.name == "state.pt":
        state = _bits(torch.load(file, weights_only=True))
        for key in ("wall_time_s", "train_time_s"):
            del state["progress"][key], state["progress"][f"shared_{key}"]
        return state
    if file.name == "meta.json":
        return {key: value for key, value in read_json(file).items() if key in ("run", "spec", "tokenizer_sha256")}
    if file.name == "summary.json":
        summary = read_json(file)
        del summary["contract"]["git_commit"]  # someone may commit while this runs
        del summary["record_sha256"], summary["metrics"]["sha256"]  # of times, too
        for values in (summary["final"], *summary["stages"].values()):
            for key in SUMMARY_TIMES:
                del values[key]
            for key in ("wall_time_s", "train_time_s"):
                values.get("shared", {}).pop(key, None)
        return summary
    return None if file.name == "train.log" else file.read_bytes()


def _bits(value: Any) -> Any:
    """Turn tensors within plain values into what is equal only where every bit is."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _bits(item) for key, item in value.items()}
    return [_bits(item) for item in value] if isinstance(value, list) else value


def differences(one: Path, other: Path) -> list[str]:
    """List the files of two run directories that are not equal, or are in one of them only: litter, too."""
    names = [{str(file.relative_to(run)) for file in run.rglob("*")} for run in (one, other)]
    both = sorted(name for name in names[0] & names[1] if (one / name).is_file() and not name.endswith("config.yaml"))
    unequal = [name for name in both if content(one / name) != content(other / name)]
    return sorted(names[0] ^ names[1]) + unequal


@dataclass
class Toll:
    """What was done to the runs of one architecture."""

    kills: int = 0
    courses: int = 0


class Torturer:
    """One architecture, and the run of it that nobody kills."""

    def __init__(self, architecture: str, data: Path, root: Path, seed: int) -> None:
        self.root, self.draw, self.toll = root / architecture, random.Random(f"{architecture} {seed}"), Toll()
        self.root.mkdir(parents=True)
        more = ("stage=full", f"architecture={architecture}", f"size.n_layers={layers_of(architecture)}")
        self.plan = tiny.plan(data, self.root, *more)
        self.count, self.noted = self.root / "operations", self.root / "saved"
        started = time.perf_counter()
        assert self._sit("whole") == 0, self._said()
        self.seconds = time.perf_counter() - started
        self.operations = int(self.count.read_text())

    def torture(self, kills: int) -> None:
        """Kill at least so many times, and finish what was killed. Raises AssertionError where a run ends otherwise."""
        while self.toll.kills < kills:
            self.toll.courses += 1
            course = f"course-{self.toll.courses}"
            self.noted.unlink(missing_ok=True)
            while (status := self._sit_and_die(course)) == -signal.SIGKILL:
                self.toll.kills += 1
                self._require_what_was_saved(course)
            assert status == 0, f"{self.root / course}: exit status {status}\n{self._said()}"
            unequal = differences(self._folder("whole"), self._folder(course))
            assert not unequal, f"{self.root / course}: differs from an undisturbed run in {unequal}"

    def _folder(self, course: str) -> Path:
        return self.root / course / self.plan.folder.name

    def _require_what_was_saved(self, course: str) -> None:
        """Check that the checkpoint that was noted last is there, or a later one, be it set aside for the next."""
        if not self.noted.exists() or not (noted := self.noted.read_text("utf-8")):
            return
        stage, step = noted.split()
        places = [self._folder(course) / "checkpoints" / stage / name / "meta.json" for name in ("last", "last.old")]
        steps = [read_json(place)["progress"]["step"] for place in places if place.exists()]
        assert steps and steps[0] >= int(step), f"{places[0]}: step {step} was saved, {steps} are there"

    def _note_saves(self) -> None:
        """Have this process write down each checkpoint that it has saved."""
        save = src.runs.stage_runner.save_checkpoint

        def save_and_note(folder: Path, model: LanguageModel, progress: Progress, **more: Any) -> None:
            save(folder, model, progress, **more)
            if folder.name == "last":
                self.noted.write_text(f"{progress.stage} {progress.step}", encoding="utf-8")

        src.runs.stage_runner.save_checkpoint = save_and_note

    def _sit_and_die(self, course: str) -> int:
        if self.draw.random() < 0.5:
            return self._sit(course, after_seconds=self.draw.uniform(0, self.seconds))
        return self._sit(course, before_operation=self.draw.randrange(self.operations))

    def _sit(self, course: str, *, after_seconds: float | None = None, before_operation: int = sys.maxsize) -> int:
        """Train in a fork, which is killed at an instant unless it ends before; return its exit status."""
        child = start_fork(partial(self._train, course, before_operation), self.root / "said")
        if after_seconds is not None:
            time.sleep(after_seconds)
            os.kill(child, signal.SIGKILL)  # a process that has ended is there until it is waited for
        return wait_for_fork(child)

    def _train(self, course: str, before_operation: int) -> None:
        """Train in this process, a fork."""
        folder = self._folder(course)
        self._note_saves()
        done = kill_before(before_operation)
        if not src.runs.runner.is_done(folder):
            src.runs.runner.execute_run(self.plan.config, self.plan.data, folder, self.plan.init)
        self.count.write_text(str(done[0]))

    def _said(self) -> str:
        return (self.root / "said").read_text(encoding="utf-8")


def main(kills: int, architectures: list[str], seed: int) -> None:
    """Torture each architecture, and say what was survived."""
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        root = Path(name)
        data = prepare_in_a_fork(root)
        for architecture in architectures:
            torturer = Torturer(architecture, data, root, seed)
            torturer.torture(-(-kills // len(architectures)))
            toll = torturer.toll
            print(
                f"{architecture}: {toll.kills} kills in {toll.courses} courses, every end equal to the bit", flush=True
            )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2].split(",") if len(sys.argv) > 2 else ARCHITECTURES, seed=0)
