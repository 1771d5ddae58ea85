"""What evaluation.json holds, and which stages of a run it has to hold."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from src.config.schema import TrainConfig, UserError
from src.evaluation.script_checks import bash_version, shellcheck_version
from src.runs.summary import read_summary
from src.runtime.log import LogFunction
from src.runtime.records import find_record
from src.training.checkpoint import has_checkpoint, read_checkpoint

EVALUATION = "evaluation.json"
FORMAT_VERSION = 1


class Likelihood(TypedDict):
    """Loss of a model on a held-out text."""

    loss: float | None
    bits_per_byte: float | None
    accuracy: NotRequired[float]
    """Of the answers of a task."""
    tokens: int


class Documents(TypedDict):
    """The loss of each document of a held-out text, in text order, within the test windows."""

    first: list[int]
    """Offset of the document in tokens of the split."""
    nats: list[float | None]
    bytes: list[int]


class Probe(TypedDict):
    """One probe: a value for each range of distances, which ends at `to`."""

    to: list[int]
    accuracy: list[float | None]
    gain: list[float | None]


class TaskMetric(TypedDict):
    """A metric of a task of lm-eval."""

    value: float | None
    higher_is_better: bool
    items: list[float | None]
    """Of each item; empty for a metric that is none of items, such as a perplexity."""


class TaskResult(TypedDict):
    """How a model does on a task of lm-eval."""

    lm_eval: str
    """Version of lm-eval."""
    n: int
    items_sha256: str
    """Of the items and the versions of their tasks: results with the same can be compared item by item."""
    metrics: dict[str, TaskMetric]


class StageEvaluation(TypedDict):
    """Measurements after one stage."""

    weights_sha256: str
    corpus: str
    test: dict[str, Likelihood | None]
    answers: NotRequired[dict[str, Any]]
    distance: NotRequired[dict[str, list[Any]]]
    documents: NotRequired[dict[str, Documents]]
    references: dict[str, float | None]
    context: NotRequired[dict[str, Any]]
    beyond: NotRequired[dict[str, list[float | None]]]
    probes: NotRequired[dict[str, Probe]]
    scripts: NotRequired[dict[str, float | None]]
    samples: list[float]
    tasks: NotRequired[dict[str, TaskResult]]
    """Of lm-eval, by name; `lm_eval_tasks` writes them."""


class Evaluation(TypedDict):
    """The content of evaluation.json."""

    format_version: int
    settings: dict[str, Any]
    bash: str | None
    shellcheck: str | None
    stages: dict[str, StageEvaluation]


def empty_evaluation(config: TrainConfig) -> dict[str, Any]:
    """Return an evaluation of no stage under these settings, as evaluation.json holds it."""
    settings = asdict(config.evaluation) | {"sequences": config.training.test_sequences}
    checkers = {"bash": bash_version(), "shellcheck": shellcheck_version()}
    return {"format_version": FORMAT_VERSION, "settings": settings, **checkers, "stages": {}}


def known_stages(path: Path, empty: dict[str, Any], log_info: LogFunction) -> dict[str, StageEvaluation]:
    """Return the stages of an evaluation.json that was made with the same settings."""
    before = find_record(path, Evaluation, "evaluating again", log_info)
    return before["stages"] if before and {**before, "stages": {}} == empty else {}


def evaluated_stages(config: TrainConfig, folder: Path) -> set[str]:
    """Return the stages whose last checkpoint is evaluated under these settings."""
    known = known_stages(folder / EVALUATION, empty_evaluation(config), lambda line: None)
    weights = {
        name: read_checkpoint(folder / "checkpoints" / name / "last").sha256["model.safetensors"]
        for name in finished_stages(config, folder)
        if name in known
    }
    return {name for name, sha256 in weights.items() if known[name]["weights_sha256"] == sha256}


def finished_stages(config: TrainConfig, folder: Path) -> list[str]:
    """Return the names of the finished stages of a run. Raises: UserError if there are none."""
    summary = read_summary(folder)
    done = summary["stages"] if summary else {}
    names = [
        name for name in config.stage.stages if name in done and has_checkpoint(folder / "checkpoints" / name / "last")
    ]
    if not names:
        raise UserError(f"run={folder}: none of its stages is finished; repeat the command that trains it")
    return names
