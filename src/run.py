"""One run: build -> fit each stage -> evaluate -> samples -> summary.json. Repeating it goes on where it stopped.

run_dir/  config.yaml    resolved, with what `auto` became      summary.json   status, contract, accounting, results
          metrics.jsonl  the truth about the course             samples/       texts drawn after each stage
          tokenizer.json                                        train.log
          checkpoints/<stage>/{best,last}/
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer
from tqdm import tqdm

from src.config import RuntimeConfig, StageConfig, TrainConfig, UserError
from src.data.loader import build_loader, eval_windows
from src.data.packing import PreparedData
from src.data.tokenizer import byte_lengths, encode, load_tokenizer
from src.evaluation.likelihood import Likelihood, evaluate_windows
from src.inference.decode import generate
from src.model.accounting import ModelCost, model_cost
from src.model.build import build_model
from src.model.language_model import LanguageModel
from src.model.matching import Match, match_of
from src.preflight import out_of_memory
from src.runtime.claim import claim, removed, storage_told
from src.runtime.device import Device, check_reductions, is_out_of_memory, open_device
from src.runtime.errors import first_line
from src.runtime.files import (
    read_json,
    read_yaml,
    remove_leftovers,
    write_bytes,
    write_json,
    write_text,
)
from src.runtime.signals import Interrupted, StopRequest, listen_for_stop
from src.summary import final_summary, stage_summary, start_summary
from src.tracking.jsonl import JsonlLog
from src.tracking.tracker import Tracker, build_tracker
from src.training.checkpoint import (
    CheckpointInfo,
    Progress,
    has_checkpoint,
    load_state,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from src.training.loop import Diverged, Hooks, TrainState, finite, fit
from src.training.optimizer import build_optimizer
from src.training.stage import plan_stage

Say = Callable[[str], None]


@dataclass
class Run:
    """What all parts of one run share."""

    config: TrainConfig
    data: PreparedData
    folder: Path
    device: Device
    match: Match
    cost: ModelCost
    tokenizer: Tokenizer
    summary: dict[str, Any]
    metrics: JsonlLog
    tracker: Tracker | None
    stop: StopRequest
    say: Say
    held: Callable[[], bool]
    """Tells whether the lock is still on what lies at `folder`."""

    @property
    def stage_names(self) -> list[str]:
        return list(self.config.stage.stages)

    def require_folder(self) -> None:
        """Raise UserError if the run directory has gone: writing would make a new one, of a part of a run."""
        if not self.held():
            raise removed(self.folder)

    def write_summary(self) -> None:
        self.require_folder()
        write_json(self.folder / "summary.json", self.summary)


def is_done(folder: Path) -> bool:
    """Tell whether a run has been finished."""
    return (folder / "summary.json").exists() and read_json(folder / "summary.json")["status"] == "done"


def execute(config: TrainConfig, data: PreparedData, folder: Path, init: CheckpointInfo | None) -> dict[str, Any]:
    """Train in `folder` until every stage is done, and return the summary.

    Raises:
        UserError: another process is at work in the folder, the disk is full or read-only, the folder was removed, or
            the device cannot do what is asked.
        Interrupted: a signal asked to stop; everything is saved.
    """
    with (
        storage_told(folder, config.rerun),
        claim(folder) as held,
        _logging(folder / "train.log") as say,
        listen_for_stop() as stop,
    ):
        run = _open(config, data, folder, held, init, stop, say)
        exit_code = 1
        try:
            with storage_told(folder, config.rerun, held):
                _train_within_memory(run, init)
            run.summary |= {"status": "done", "error": None}
            exit_code = 0
        except Interrupted as interrupted:
            run.summary |= {"status": "interrupted", "error": f"stopped by {interrupted}"}
            exit_code = interrupted.exit_code
            raise
        except BaseException as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            run.summary |= {"status": "failed", "error": f"{kind}{first_line(error)}"}
            logging.getLogger("src").debug("failed", exc_info=True)
            raise
        finally:
            _write_end(run)
            if run.tracker is not None:
                run.tracker.finish(exit_code)
        return run.summary


def _write_end(run: Run) -> None:
    """Write down how a run has ended; where that fails too, the error that ended it is the one to be told."""
    try:
        run.write_summary()
    except (OSError, UserError):
        if run.summary["status"] == "done":
            raise


def _open(
    config: TrainConfig,
    data: PreparedData,
    folder: Path,
    held: Callable[[], bool],
    init: CheckpointInfo | None,
    stop: StopRequest,
    say: Say,
) -> Run:
    """Decide what is left open (device, precision, threads: once and for all sittings) and write it down."""
    for place in (folder, folder / "samples", *folder.glob("checkpoints/*")):
        remove_leftovers(place)
    decided = folder / "config.yaml"
    if decided.exists():
        known = read_yaml(decided, "runtime")["runtime"]
        config = replace(config, runtime=RuntimeConfig(**known))
    try:
        device = open_device(config.runtime)
    except UserError as error:
        if not decided.exists():
            raise
        raise UserError(f"{folder}: begun elsewhere, go on there or start over with rerun=true ({error})") from None
    check_reductions(device, config.training.micro_batch_size * config.training.seq_len)
    runtime = replace(config.runtime, device=device.kind, precision=device.precision, threads=device.threads)
    config = replace(config, runtime=runtime)
    write_text(decided, yaml.safe_dump(asdict(config), sort_keys=False))
    if not (folder / "tokenizer.json").exists():
        write_bytes(folder / "tokenizer.json", data.tokenizer_path.read_bytes())
    say(device.describe())

    match = match_of(config)
    cost = model_cost(match.spec, config.training.seq_len)
    solved = "".join(f", {knob}={value}" for knob, value in match.solved.items())
    say(
        f"Model: {config.architecture.name} {config.size.name}, {cost.total_params:,} parameters, "
        f"{cost.active_non_embedding_params:,} active without embeddings ({match.residual:+.2%} of dense{solved})"
    )
    summary = start_summary(config, data, folder, device, match, cost, init)
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tracker = build_tracker(config.tracking, folder, asdict(config) | {"contract": summary["contract"]}, say)
    metrics = JsonlLog(folder / "metrics.jsonl")
    run = Run(config, data, folder, device, match, cost, tokenizer, summary, metrics, tracker, stop, say, held)
    run.write_summary()
    return run


def _train_within_memory(run: Run, init: CheckpointInfo | None) -> None:
    """Train. Raises UserError where memory runs out, with settings that would fit."""
    try:
        _train_all(run, init)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        line = out_of_memory(run.config, run.match.spec, run.device.capacity_bytes(), first_line(error))
        raise UserError(line) from error


def _train_all(run: Run, init: CheckpointInfo | None) -> None:
    """Go through the stages, from wherever an earlier sitting stopped."""
    model = build_model(run.match.spec, run.config.seed)
    model.activation_checkpointing = run.config.runtime.activation_checkpointing
    if init is not None:
        load_weights(init, model)
        run.say(f"Weights: {init.folder} ({init.run}, after {init.progress.step} steps of stage {init.progress.stage})")
    model.to(run.device.kind)
    for name, stage in run.config.stage.stages.items():
        run.stop.raise_if_asked()  # between stages everything is saved
        if name in run.summary["stages"]:
            load_weights(read_checkpoint(run.folder / "checkpoints" / name / "last"), model)
            continue
        progress = _train_stage(run, name, stage, model)
        _write_samples(run, name, stage, model)
        run.summary["stages"][name] = stage_summary(run.data, stage, progress, run.cost, run.device)
        run.summary["final"] = final_summary(run.summary["stages"])
        run.write_summary()


def _train_stage(run: Run, name: str, stage: StageConfig, model: LanguageModel) -> Progress:
    config, folder = run.config, run.folder / "checkpoints" / name
    plan = plan_stage(config, name, stage, run.cost.train_flops_per_token)
    loader = build_loader(run.data, stage, config.training.seq_len, config.seed)
    windows = {
        corpus: eval_windows(run.data.tokens(corpus, "val"), config.training.seq_len, config.training.eval_sequences)
        for corpus in stage.corpora
    }
    lengths = byte_lengths(run.tokenizer)
    state = TrainState(
        model=model,
        forward=torch.compile(model) if config.runtime.compile else model,
        optimizer=build_optimizer(model, config.optimizer),
        scaler=run.device.build_scaler(),
        progress=Progress(name),
        skipped_steps=torch.zeros((), device=run.device.kind),
        bad_steps=torch.zeros((), device=run.device.kind),
    )
    if has_checkpoint(folder / "last"):
        _go_back(run, name, state)
        run.say(f"Resuming stage {name} after step {state.progress.step} of {plan.steps}")
    else:
        tokens_per_step = config.training.global_batch_size * config.training.seq_len
        run.say(f"Stage {name}: {plan.steps} steps of {tokens_per_step:,} tokens")
        run.metrics.rewind(run.stage_names, name, -1)  # the stage begins anew, with the evaluation at step 0
    # A tracker merges rows of equal steps, so each stage counts its step 0 apart from the last one before it.
    steps_before = sum(
        plan_stage(config, other, config.stage.stages[other], 0).steps + 1 for other in run.summary["stages"]
    )

    of_the_mix: dict[str, float | None] = {}

    def evaluate() -> tuple[float, float]:
        batch_size = config.training.micro_batch_size
        results = {
            corpus: evaluate_windows(model, chosen, lengths, batch_size=batch_size, device=run.device)
            for corpus, chosen in windows.items()
        }
        result = results.pop(stage.corpus)
        run.say(
            f"{config.architecture.name} {name} step {state.progress.step}/{plan.steps}: "
            f"val loss {result.loss:.4f}, {result.bits_per_byte:.4f} bits per byte"
            + "".join(f"; {corpus} {of.loss:.4f}, {of.bits_per_byte:.4f}" for corpus, of in results.items())
        )
        of_the_mix.update(_losses_by_corpus(results))
        return result.loss, result.bits_per_byte

    def log(row: dict[str, Any]) -> None:
        run.require_folder()
        if "val/loss" in row:
            row = row | of_the_mix  # the loop knows of the stage's own corpus alone
        run.metrics.log(row)
        if run.tracker is not None:
            run.tracker.log(row, steps_before + row["step"])

    def save(kind: str) -> None:
        run.require_folder()
        save_checkpoint(
            folder / kind,
            model,
            state.progress,
            tokenizer_sha256=run.data.manifest["tokenizer"]["sha256"],
            run=run.folder.name,
            state=state.to_save() if kind == "last" else None,
        )

    hooks = Hooks(evaluate, log, save)
    clip = config.optimizer.grad_clip
    while state.progress.step < plan.steps:
        try:
            fit(state, plan, loader, config.training, config.schedule, clip, run.device, hooks, run.stop)
        except Diverged:
            _roll_back(run, name, state, plan.learning_rate)
    return state.progress


def _losses_by_corpus(results: dict[str, Likelihood]) -> dict[str, float | None]:
    row = {}
    for corpus, result in results.items():
        row[f"val/{corpus}/loss"] = finite(result.loss)
        row[f"val/{corpus}/bits_per_byte"] = finite(result.bits_per_byte)
    return row


def _go_back(run: Run, name: str, state: TrainState) -> None:
    """Put the weights, the state and the metrics where the stage's last checkpoint is."""
    info = read_checkpoint(run.folder / "checkpoints" / name / "last")
    load_weights(info, state.model)
    state.restore(load_state(info))
    run.metrics.rewind(run.stage_names, name, state.progress.step)


def _roll_back(run: Run, name: str, state: TrainState, learning_rate: float) -> None:
    """Go back with half the learning rate after a divergence. Raises UserError where that has been done already."""
    step, bad = state.progress.step, int(state.bad_steps)
    line = f"stage {name} has diverged: at step {step}, {bad} gradients in a row were not finite"
    if state.progress.rollbacks or not has_checkpoint(run.folder / "checkpoints" / name / "last"):
        again = ", at half the learning rate too" if state.progress.rollbacks else ""
        raise UserError(
            f"optimizer.learning_rate={learning_rate}: {line}{again}; try a smaller one with rerun=true, a longer "
            "schedule.warmup_steps, or runtime.precision=fp32"
        )
    _go_back(run, name, state)
    state.progress.rollbacks += 1
    state.progress.rate_scale *= 0.5
    run.say(f"{line[0].upper()}{line[1:]}; going on from step {state.progress.step} with half the learning rate")


def _write_samples(run: Run, name: str, stage: StageConfig, model: LanguageModel) -> None:
    samples = []
    for prompt in stage.prompts:
        tokens = [run.data.eot_id, *encode(run.tokenizer, prompt)]
        drawn = list(generate(model, tokens, run.config.samples, stop=run.data.eot_id))
        samples.append({"prompt": prompt, "text": prompt + run.tokenizer.decode(drawn)})
    run.require_folder()
    write_json(run.folder / "samples" / f"{name}.json", samples)


class _LogFile(logging.FileHandler):
    """A log that nothing depends on: where it cannot be written, what else is written to that disk will say so."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing, where logging would print a traceback for every line."""

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _logging(path: Path) -> Iterator[Say]:
    """Send lines to the terminal, above the progress bar, and to a file; tracebacks to the file alone."""
    logger = logging.getLogger("src")
    logger.setLevel(logging.DEBUG)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)

    def say(line: str) -> None:
        tqdm.write(line)
        logger.info(line)

    try:
        yield say
    finally:
        logger.removeHandler(handler)
        handler.close()
