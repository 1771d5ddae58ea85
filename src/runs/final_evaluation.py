"""What the finished stages of a run are worth, measured on their last checkpoints: evaluation.json.

A run ends with it, and `python -m src.evaluate` does it again, with other settings or after the fact. Text is that of
the test split, on which nothing is ever chosen. What has been assessed with these settings is not assessed again.
"""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from tokenizers import Tokenizer

from src.config.schema import SamplingConfig, StageConfig, TrainConfig, UserError
from src.data.dataset import CORPORA, PreparedData
from src.data.document import GENERATED
from src.data.loader import eval_starts, eval_windows
from src.data.preparation.token_annotations import annotate_windows
from src.data.tokenizer.bpe import byte_lengths, encode, load_tokenizer
from src.evaluation.loss import document_losses, likelihood_of
from src.evaluation.memorization import distinct_share, memorised_shares
from src.evaluation.position_loss import describe_context, predict_targets
from src.evaluation.probes import frequent_tokens, measure_probes
from src.evaluation.script_checks import bash_version, check_script, shellcheck_version, whole_lines
from src.inference.generation import generate_batch
from src.model.build import build_model
from src.model.language_model import LanguageModel
from src.runs.summary import read_summary
from src.runtime.atomic_files import finite_or_none, write_json
from src.runtime.device import Device
from src.runtime.distributed import SINGLE_PROCESS
from src.runtime.log import LogFunction
from src.runtime.records import child_path, read_record, write_record
from src.training.checkpoint import has_checkpoint, load_weights, read_checkpoint

EVALUATION = "evaluation.json"
FORMAT_VERSION = 1


class Likelihood(TypedDict):
    """How well a model predicts a held-out text."""

    loss: float | None
    bits_per_byte: float | None
    tokens: int


class Documents(TypedDict):
    """The loss of each document of a held-out text, in the order of the text: as far as test windows have it."""

    first: list[int]
    """Where the document begins, in tokens of the split."""
    nats: list[float | None]
    bytes: list[int]


class Probe(TypedDict):
    """One probe: a number for each range of distances, which ends at `to`."""

    to: list[int]
    accuracy: list[float | None]
    gain: list[float | None]


class StageEvaluation(TypedDict):
    """What was measured after a stage."""

    weights_sha256: str
    corpus: str
    test: dict[str, Likelihood | None]
    documents: NotRequired[dict[str, Documents]]
    references: dict[str, float | None]
    context: NotRequired[dict[str, Any]]
    beyond: NotRequired[dict[str, list[float | None]]]
    probes: NotRequired[dict[str, Probe]]
    scripts: NotRequired[dict[str, float | None]]
    samples: list[float]


class Evaluation(TypedDict):
    """The content of evaluation.json."""

    format_version: int
    settings: dict[str, Any]
    bash: str | None
    shellcheck: str | None
    stages: dict[str, StageEvaluation]


class Sample(TypedDict):
    """A text that a model has written."""

    prompt: str
    text: str


def evaluate_run(
    config: TrainConfig,
    data: PreparedData,
    folder: Path,
    device: Device,
    log_info: LogFunction,
    *,
    raise_if_stopped: Callable[[], None] = lambda: None,
    again: bool = False,
) -> dict[str, Any]:
    """Assess each finished stage of the run in `folder`, and return what stands in its evaluation.json.

    raise_if_stopped: called now and then, to raise what should end this. again: also what has been assessed before.
    Raises: UserError where no stage is finished.
    """
    device, tokenizer = replace(device, process_group=SINGLE_PROCESS), load_tokenizer(folder / "tokenizer.json")
    settings = asdict(config.evaluation) | {"sequences": config.training.test_sequences}
    checkers = {"bash": bash_version(), "shellcheck": shellcheck_version()}
    result: dict[str, Any] = {"format_version": FORMAT_VERSION, "settings": settings, **checkers, "stages": {}}
    path = folder / EVALUATION
    before = None if again else _read_before(path, log_info)
    known = before["stages"] if before and {**before, "stages": {}} == result else {}
    for name in finished_stages(config, folder):
        info = read_checkpoint(folder / "checkpoints" / name / "last")
        weights = info.sha256["model.safetensors"]
        if name in known and known[name]["weights_sha256"] == weights:
            result["stages"][name] = known[name]
            continue
        raise_if_stopped()
        log_info(f"Evaluating the {name} stage")
        model = build_model(info.spec, seed=0)
        load_weights(info, model)
        model.to(device.kind).eval()
        assessor = _StageEvaluator(config, data, device, tokenizer, model, raise_if_stopped)
        entry, scripts = assessor.evaluate_run(config.stage.stages[name])
        if entry["test"][entry["corpus"]] is None:
            log_info(
                f"The test split of {entry['corpus']} does not fill a window: only its validation loss is reported"
            )
        entry["samples"] = assessor.memorised([one["text"] for one in _read_samples(folder, name, log_info)])
        if scripts:
            write_json(folder / "samples" / f"{name}-scripts.json", scripts)
        result["stages"][name] = {"weights_sha256": weights, **entry}
        write_record(path, result)
    return result


def _read_before(path: Path, log_info: LogFunction) -> Evaluation | None:
    """Read an earlier evaluation; a damaged one is made again, since checkpoints alone decide what it holds."""
    if not os.path.lexists(path):
        return None
    try:
        return read_record(path, Evaluation, "evaluating again")
    except UserError as error:
        log_info(str(error))
        return None


def finished_stages(config: TrainConfig, folder: Path) -> list[str]:
    """Name the stages of a run that have come to their end. Raises UserError where there is none."""
    summary = read_summary(folder)
    done = summary["stages"] if summary else {}
    names = [
        name for name in config.stage.stages if name in done and has_checkpoint(folder / "checkpoints" / name / "last")
    ]
    if not names:
        raise UserError(f"run={folder}: none of its stages is finished; repeat the command that trains it")
    return names


class _StageEvaluator:
    """One model, and the text that it is measured on."""

    def __init__(
        self,
        config: TrainConfig,
        data: PreparedData,
        device: Device,
        tokenizer: Tokenizer,
        model: LanguageModel,
        raise_if_stopped: Callable[[], None],
    ) -> None:
        self.data, self.device, self.tokenizer, self.model, self.raise_if_stopped = (
            data,
            device,
            tokenizer,
            model,
            raise_if_stopped,
        )
        self.training, self.settings, self.samples = config.training, config.evaluation, config.samples
        self.lengths = byte_lengths(tokenizer)
        self.masking_eot = data.eot_id if config.training.document_masking else None

    def evaluate_run(self, stage: StageConfig) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return what is measured after a stage, and the scripts that were generated for it."""
        found = {corpus: self._predict(corpus) for corpus in CORPORA}
        entry: dict[str, Any] = {
            "corpus": stage.corpus,
            "test": {corpus: one and self._likelihood(*one[:2]) for corpus, one in found.items()},
            "documents": {corpus: self._documents(corpus, *one[:2]) for corpus, one in found.items() if one},
            "references": self.data.references(stage.corpus, "test"),
            **self._context(stage.corpus, found[stage.corpus]),
        }
        is_branch = stage.branch_of is not None  # its losses are compared; probes and scripts cost more than its decay
        if self.settings.probes and not is_branch:
            self.raise_if_stopped()
            entry["probes"] = self._probes(stage.corpus)
        scripts: list[dict[str, Any]] = []
        if stage.corpus == "code" and self.settings.scripts and not is_branch:
            scripts = self._scripts(stage)
            entry["scripts"] = _sum_up(scripts)
            for script in scripts:
                del script["tokens"]
        return entry, scripts

    def _windows(self, corpus: str, length: int, n: int) -> np.ndarray | None:
        """Return windows of the test split; None where it does not fill one."""
        tokens = self.data.tokens(corpus, "test")
        return eval_windows(tokens, length, n) if len(tokens) > length else None

    def _predict(self, corpus: str) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Return windows of the test split, and the loss of each target and whether it is the likeliest token."""
        windows = self._windows(corpus, self.training.seq_len, self.training.test_sequences)
        if windows is None:
            return None
        self.raise_if_stopped()
        return windows, *predict_targets(self.model, windows, device=self.device, eot_id=self.masking_eot)

    def _likelihood(self, windows: np.ndarray, nats: np.ndarray) -> dict[str, Any]:
        found = likelihood_of(float(nats.sum()), windows, self.lengths)
        return {key: finite_or_none(value) for key, value in found._asdict().items()}

    def _documents(self, corpus: str, windows: np.ndarray, nats: np.ndarray) -> dict[str, list[Any]]:
        """Sum up the loss of each document that the windows have text of."""
        tokens = self.data.tokens(corpus, "test")
        starts = eval_starts(len(tokens), self.training.seq_len, self.training.test_sequences)
        return document_losses(tokens, starts, nats, self.lengths[windows[:, 1:]], self.data.eot_id)

    def _context(self, corpus: str, found: tuple[np.ndarray, np.ndarray, np.ndarray] | None) -> dict[str, Any]:
        """Measure loss by position within the training context and past it, and recall by distance."""
        measured: dict[str, Any] = {}
        length, n = self.training.seq_len, self.training.eval_sequences
        if found is not None:
            tokens, source = self.data.tokens(corpus, "test"), self.data.manifest["corpora"][corpus]["source"]
            known = None
            if source in GENERATED:
                starts = eval_starts(len(tokens), length, self.training.test_sequences)
                known = annotate_windows(tokens, starts, length, source, self.tokenizer, self.data.eot_id)
            windows, nats, hits = found
            measured["context"] = describe_context(nats, hits, windows, self.lengths, known)
        longer = self._longest(self.settings.context_factor * length)
        windows = self._windows(corpus, longer, max(1, n * length // longer)) if longer > length else None
        if windows is not None:
            self.raise_if_stopped()
            nats, hits = predict_targets(self.model, windows, device=self.device, eot_id=self.masking_eot)
            measured["beyond"] = describe_context(nats, hits, windows, self.lengths, None)["positions"]
        return measured

    def _longest(self, length: int) -> int:
        """Cut a context to the positions that the model has learned, if it has learned any."""
        return min(length, self.model.spec.learned_positions or length)

    def _probes(self, corpus: str) -> dict[str, Any]:
        return measure_probes(
            self.model,
            frequent_tokens(self.data.tokens(corpus, "train"), self.data.eot_id),
            device=self.device,
            eot_id=self.data.eot_id,
            context_len=self._longest(2 * self.training.seq_len),
            n=self.settings.probe_sequences,
        )

    def memorised(self, texts: list[str]) -> list[float]:
        """Return the share of each text that stands in the training text, in long stretches of either corpus."""
        tokens = [encode(self.tokenizer, text) for text in texts]
        found = [memorised_shares(tokens, self.data.tokens(corpus, "train")) for corpus in CORPORA]
        return [round(max(shares), 6) for shares in zip(*found, strict=True)]

    def _scripts(self, stage: StageConfig) -> list[dict[str, Any]]:
        """Generate scripts from the stage's prompts, and let the checkers read them."""
        scripts: list[dict[str, Any]] = []
        for prompt in stage.prompts:
            self.raise_if_stopped()
            start = [self.data.eot_id, *encode(self.tokenizer, prompt)]
            wanted = self.settings.script_tokens or max(1, self.training.seq_len - len(start))
            length = self._longest(len(start) + wanted) - len(start)
            sampling = SamplingConfig(length, self.samples.temperature, self.samples.top_k, self.samples.seed)
            texts = generate_batch(self.model, start, sampling, self.settings.scripts, stop=self.data.eot_id)
            for index, tokens in enumerate(texts):
                text, finished = prompt + self.tokenizer.decode(tokens), len(tokens) < length
                shown = text if finished else whole_lines(text)
                scripts.append(
                    {"prompt": prompt, "seed": sampling.seed + index, "text": text, "finished": finished}
                    | {"lines": len(shown.splitlines()), **asdict(check_script(shown)), "tokens": tokens}
                )
        shares = memorised_shares([script["tokens"] for script in scripts], self.data.tokens("code", "train"))
        for script, share in zip(scripts, shares, strict=True):
            script["memorised"] = round(share, 6)
        return scripts


def _read_samples(folder: Path, stage: str, log_info: LogFunction) -> list[Sample]:
    """Read the samples of a stage; damaged ones are named and left out, as nothing else depends on them."""
    file = child_path(folder / "samples", stage, ".json")
    if not os.path.lexists(file):
        return []
    try:
        return read_record(file, list[Sample], "going on without these samples")
    except UserError as error:
        log_info(str(error))
        return []


def _sum_up(scripts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sum up what the checkers found over all scripts of a stage."""
    tokens = [script["tokens"] for script in scripts]
    findings = [script["findings"] for script in scripts if script["findings"] is not None]
    lines = sum(script["lines"] for script in scripts)
    drawn = sum(map(len, tokens))
    memorised = sum(script["memorised"] * len(own) for script, own in zip(scripts, tokens, strict=True))
    return {
        "n": len(scripts),
        "finished": _share([script["finished"] for script in scripts]),
        "valid": _share([script["valid"] for script in scripts if script["valid"] is not None]),
        "findings_per_line": sum(findings) / lines if findings and lines else None,
        "memorised": memorised / drawn if drawn else None,
        "distinct_4": distinct_share(tokens),
    }


def _share(values: list[bool]) -> float | None:
    return sum(values) / len(values) if values else None
