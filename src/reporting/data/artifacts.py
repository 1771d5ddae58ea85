"""Load the other files of runs and sweeps: samples, evaluations, learning-rate searches, commands, logs."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from src.config.schema import TrainConfig
from src.reporting.data.json_values import (
    Record,
    as_dict,
    as_floats,
    as_list,
    as_number,
    as_text,
    clean_text,
    read_or_none,
)
from src.reporting.data.metric import BITS
from src.reporting.data.runs import load_evaluation, stage_names, to_records
from src.reporting.data.shared_results import shared

PROBES = {
    "copying": "A sequence of random tokens, then the same again: nats saved for each token of the repetition.",
    "induction": "Two tokens that were neighbors once: nats saved at the second when the first comes again.",
    "recall": "Eight keys with their values, then the keys in another order: nats saved at a value.",
}
"""What is measured by distance on random tokens."""


def load_samples(runs: pd.DataFrame) -> list[Record]:
    """Load the generated texts: run, architecture, size, seed, stage, prompt, text (without the prompt)."""
    samples: list[Record] = []
    for row in to_records(runs):
        for stage in stage_names(runs):
            content = read_or_none(Path(row["run_dir"]) / "samples" / f"{stage}.json")
            for sample in as_list(content):
                prompt, text = clean_text(as_dict(sample).get("prompt")), clean_text(as_dict(sample).get("text"))
                owner = {key: row[key] for key in ("run", "architecture", "size", "seed")}
                samples.append({**owner, "stage": stage, "prompt": prompt, "text": text.removeprefix(prompt)})
    return samples


@shared
def load_context(run_dir: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Load what was measured of a run's context: stage -> measure -> name -> a number a range, or nan.

    Measures: positions, recall and hidden (of generated text), beyond (positions past the training context too),
    `probe/<name>` for each of PROBES, and of a task distance and length.
    """
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for stage, entry in load_evaluation(run_dir).items():
        measures = {name: entry["context"].get(name) for name in ("positions", "recall", "hidden")}
        measures |= {"distance": entry["distance"], "length": _by_length(entry["answers"])}
        measures |= {"beyond": entry["beyond"], **{f"probe/{name}": entry["probes"].get(name) for name in PROBES}}
        found[stage] = {
            measure: {name: as_floats(numbers) for name, numbers in as_dict(values).items()}
            for measure, values in measures.items()
        }
    return found


def _by_length(answers: Record) -> Record:
    """Return the accuracy of a task by the length of the test sequences, the mean over their difficulties."""
    found: dict[float, list[tuple[float, float]]] = {}
    columns = [as_floats(answers.get(key)) for key in ("length", "n", "accuracy")]
    for length, n, accuracy in zip(*columns, strict=False):
        found.setdefault(length, []).append((n, accuracy))
    if len(found) < 2:
        return {}
    means = {length: [sum(part) for part in zip(*each, strict=True)] for length, each in found.items()}
    return {
        "to": sorted(found),
        "n": [means[length][0] for length in sorted(found)],
        "accuracy": [means[length][1] / len(found[length]) for length in sorted(found)],
    }


class Search(NamedTuple):
    """A learning-rate search for one size, and its results."""

    size: str
    text: str
    unit: str
    """Of the losses."""
    tried: dict[str, tuple[list[tuple[float, float | None]], str | None]]
    """Architecture -> its (rate, validation bits per byte or None if it diverged), and at which edge the best is."""

    def points(self, architecture: str) -> list[tuple[float, float]]:
        """Return the rates that did not diverge, and their bits per byte."""
        return [(rate, loss) for rate, loss in self.tried[architecture][0] if loss is not None]


FAILING_LOSS = 1.1
"""Learning fails at a rate whose loss is so many times that of the best, one step below it. In the first published
comparison the next rates lost 14% and 19% where seeds differed widely afterwards, and at most 6% elsewhere."""


def next_rate_fails(tried: Sequence[tuple[float, float | None]]) -> bool:
    """Whether learning fails at the next rate above the best of those tried (None: diverged)."""
    points = sorted(tried, key=lambda point: point[0])
    known = [loss for _, loss in points if loss is not None]
    above = points[[loss for _, loss in points].index(min(known)) + 1 :] if known else []
    return bool(above) and (above[0][1] is None or above[0][1] >= FAILING_LOSS * min(known))


def load_searches(directory: str | Path) -> list[Search]:
    """Load the searches whose rates a sweep uses, or that a folder of `src.tune` holds; damaged ones are left out."""
    content = as_dict(read_or_none(Path(directory) / "learning_rates.json"))
    found: list[Search] = []
    for search in map(as_dict, as_list(content.get("searches"))):
        tried: dict[str, tuple[list[tuple[float, float | None]], str | None]] = {}
        for name, entry in as_dict(search.get("rates")).items():
            trials = map(as_dict, as_list(as_dict(entry).get("trials")))
            warmup = as_dict(entry).get("warmup_steps")  # trials with other warm-ups are only in the file
            own = [trial for trial in trials if trial.get("warmup_steps") == warmup]
            pairs = [(as_number(trial.get("learning_rate")), as_number(trial.get("bits_per_byte"))) for trial in own]
            points = [(rate, loss) for rate, loss in pairs if rate is not None]
            tried[name] = sorted(points, key=lambda point: point[0]), as_text(as_dict(entry).get("edge"))
        unit = as_text(search.get("unit")) or BITS.unit
        found.append(Search(str(as_text(search.get("size"))), str(as_text(search.get("text"))), unit, tried))
    return found


def load_sweep_name(directory: str | Path) -> str | None:
    """Load the name that a person gave a sweep; None where it is the default, or that of its experiment."""
    sweep = as_dict(read_or_none(Path(directory) / "sweep.json"))
    words = {
        str(as_text(word)) for job in as_list(sweep.get("jobs")) for word in as_list(as_dict(job).get("overrides"))
    }
    experiments = {word.partition("experiment=")[2].replace("_", "-") for word in words if "experiment=" in word}
    name = as_text(sweep.get("name"))
    return None if name in {TrainConfig.sweep_name, *experiments} else name


def load_commands(directory: str | Path, runs: Sequence[Record]) -> dict[str, str]:
    """Load the command of each run: the one that it wrote, else that of its job, with the searched rate as a value."""
    found: dict[str, str] = {}
    searches = as_dict(read_or_none(Path(directory) / "learning_rates.json")).get("searches")
    rates = {str(as_dict(each).get("size")): as_dict(as_dict(each).get("rates")) for each in as_list(searches)}
    for job in map(as_dict, as_list(as_dict(read_or_none(Path(directory) / "sweep.json")).get("jobs"))):
        words = [str(as_text(item)) for item in as_list(job.get("overrides"))]
        own = words[: words.index("hydra.mode=RUN")] if "hydra.mode=RUN" in words else words
        searched = as_dict(rates.get(str(job.get("size")), {}).get(str(job.get("architecture"))))
        if (rate := as_number(searched.get("learning_rate"))) is not None:
            warmup = as_number(searched.get("warmup_steps"))
            own = [word for word in own if not word.startswith("learning_rates=")]
            own += [f"optimizer.learning_rate={rate!r}", *([f"schedule.warmup_steps={warmup}"] if warmup else [])]
        found[str(job.get("run"))] = shlex.join(["python", "-m", "src.train", *own])
    for run in runs:
        summary = as_dict(read_or_none(Path(run["run_dir"]) / "summary.json"))
        if isinstance(command := summary.get("command"), str):
            found[run["run"]] = clean_text(command)
    return found


def load_log_ends(directory: str | Path, lines: int = 15) -> dict[str, str]:
    """Load the last lines that each failed job of a sweep wrote: run -> text."""
    found: dict[str, str] = {}
    for file in sorted((Path(directory) / "jobs").glob("*.json")):
        log = file.with_suffix(".log")
        if as_dict(read_or_none(file)).get("status") == "failed" and log.is_file():
            with log.open("rb") as handle:
                handle.seek(max(0, log.stat().st_size - 20_000))
                text = handle.read().decode(errors="replace")
            found[file.stem] = "\n".join(clean_text(text.rstrip()).split("\n")[-lines:])
    return found
