"""Train one stage of a run from its last checkpoint, with evaluation, checkpoints and samples."""

import time
from dataclasses import asdict, replace
from statistics import fmean
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from src.config.schema import StageConfig, UserError
from src.data.dataset import PreparedData
from src.data.loader import build_loader, eval_windows
from src.data.task_data import HeldOutSet
from src.data.tokenizer.bpe import byte_lengths, encode
from src.evaluation.answers import score_answers
from src.evaluation.loss import evaluate_windows
from src.inference.generation import generate
from src.model.language_model import LanguageModel
from src.runs.run import Run
from src.runtime.atomic_files import file_sha256, finite_or_none, write_json
from src.runtime.records import MetricsDigest
from src.runtime.timing import median_times
from src.training.checkpoint import (
    has_checkpoint,
    load_sharded_optimizer,
    load_state,
    load_weights,
    read_checkpoint,
    save_checkpoint,
)
from src.training.compilation import Forward
from src.training.loop import Diverged, Hooks, Validation, fit
from src.training.parallel import gather_model, release_weights
from src.training.progress import Progress
from src.training.sharded_files import optimizer_tensors, weight_tensors
from src.training.stage_budget import StagePlan, plan_stage, stage_schedule, steps_in_time
from src.training.train_step import TrainState, train_step


def train_stage(run: Run, name: str, stage: StageConfig, model: LanguageModel, forward: Forward) -> Progress:
    """Train one stage to its end; `forward` is the model or its compiled form.

    A branch starts from the checkpoint that its origin has saved for it.

    Raises: what `fit` raises, and UserError if training diverges again or a branch has no first checkpoint.
    """
    config = run.config
    first_plan = plan = plan_stage(config, name, stage, run.cost.train_flops_per_token)
    loader = build_loader(run.data, stage, config.training.seq_len, config.order_seed, config.training.sampling)
    state = run.begin_state(name, model, forward)
    if has_checkpoint(run.folder / "checkpoints" / name / "last"):
        _restore_last_checkpoint(run, plan, state)
    elif stage.branch_of is None:
        run.rewind_metrics(name, plan.first_step - 1)  # the stage starts with the evaluation at its first step
    else:
        raise UserError(
            f"stage.stages.{name}.branch_of={stage.branch_of}: {run.folder} has no checkpoint of step "
            f"{plan.first_step} of that stage, where the branch begins; train again with rerun=true"
        )
    plan = _count_steps(run, first_plan, state.progress)
    if state.progress.step == plan.first_step:
        tokens_per_step = config.training.global_batch_size * config.training.seq_len
        part = f", from step {plan.first_step} of stage {stage.branch_of} on" if stage.branch_of else ""
        run.log_info(f"Stage {name}: {plan.steps} steps of {tokens_per_step:,} tokens{part}")
    else:
        run.log_info(f"Resuming stage {name} after step {state.progress.step} of {plan.steps}")
    stage_hooks = StageHooks(run, stage, plan, state)
    hooks = Hooks(stage_hooks.evaluate, stage_hooks.log, stage_hooks.save, stage_hooks.begin_branch)
    schedule, clip = stage_schedule(config, stage), config.optimizer.grad_clip
    while not plan.is_finished(state.progress):
        try:
            fit(
                state,
                plan,
                loader,
                config.training,
                schedule,
                clip,
                run.device,
                hooks,
                run.stop,
                run.masking_eot,
                config.seed,
            )
        except Diverged:
            _roll_back(run, plan, state)
        plan = stage_hooks.plan = _count_steps(run, first_plan, state.progress)
    if plan.steps != first_plan.steps:
        took = f"{state.progress.train_time_s:.1f} s"
        run.log_info(f"Budget: {plan.steps} steps in place of {first_plan.steps}, in {took}")
    return state.progress


def _count_steps(run: Run, plan: StagePlan, progress: Progress) -> StagePlan:
    """Return the first plan of a stage with its present number of steps, counted again by their time if that is due."""
    plan = replace(plan, steps=progress.recounted_steps or plan.steps)
    if not plan.is_recount_due(progress):
        return plan
    max_seconds = run.config.training.max_seconds
    assert max_seconds is not None
    progress.recounted_steps = run.process_group.broadcast(steps_in_time(progress, max_seconds, plan.decay_fraction))
    return replace(plan, steps=progress.recounted_steps)


def measure_step(run: Run, model: LanguageModel, forward: Forward, budget_s: float) -> float:
    """Return the median seconds of a training step over `budget_s` seconds; the weights are restored afterwards."""
    config = run.config
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = next(iter(config.stage.stages.values()))
    loader = build_loader(run.data, first, config.training.seq_len, config.order_seed, config.training.sampling)
    state = run.begin_state("measuring", model, forward)
    size = config.training.global_batch_size
    rows = run.process_group.rank_slice(size)
    model.train()

    def step() -> None:
        train_step(
            state,
            run.device.tensor(loader.batch(0, size, rows)),
            micro_batch_size=config.training.micro_batch,
            grad_clip=config.optimizer.grad_clip,
            device=run.device,
            eot_id=run.masking_eot,
            dropout=config.training.dropout,
            embedding_dropout=config.training.embedding_dropout,
        )

    is_single = run.process_group.size == 1  # several processes have to take the same number of steps
    (seconds,) = median_times([step], run.device, budget_s if is_single else 0.0)
    model.load_state_dict(before)
    return seconds


class StageHooks:
    """Callbacks of the training loop: evaluation, metrics, checkpoints."""

    def __init__(self, run: Run, stage: StageConfig, plan: StagePlan, state: TrainState) -> None:
        self.run, self.stage, self.plan, self.state = run, stage, plan, state
        training = run.config.training
        self.windows: dict[str, np.ndarray] = {}
        self.held_out: list[HeldOutSet] = []
        if isinstance(run.data, PreparedData):
            self.windows = {
                corpus: eval_windows(run.data.tokens(corpus, "val"), training.seq_len, training.eval_sequences)
                for corpus in stage.corpora
            }
        else:
            self.held_out = [*run.data.held_out_sets("val", training.seq_len, training.eval_sequences)]
        self.other_losses: dict[str, float | None] = {}
        """The last losses on the stage's other corpora."""
        self.steps_before = run.global_step(plan.name, 0)

    def evaluate(self) -> Validation:
        """Return loss and bits per byte on the stage's corpus, or loss and accuracy on a task."""
        found = self._evaluate_text(self.run.tokenizer) if self.run.tokenizer else self._evaluate_task()
        release_weights(self.state.model)
        return found

    def _evaluate_task(self) -> Validation:
        scores = [score_answers(self.state.model, each, device=self.run.device) for each in self.held_out]
        loss, accuracy = fmean(score.loss for score in scores), fmean(score.accuracy for score in scores)
        self._log_validation(f"val loss {loss:.4f}, accuracy {accuracy:.4f}")
        return Validation(loss, accuracy=accuracy)

    def _log_validation(self, results: str) -> None:
        name, progress = self.run.config.architecture.name, self.state.progress
        self.run.log_info(f"{name} {self.plan.name} step {progress.step}/{self.plan.steps}: {results}")

    def _evaluate_text(self, tokenizer: Tokenizer) -> Validation:
        batch_size, n_bytes = self.run.config.training.micro_batch, byte_lengths(tokenizer)
        results = {
            corpus: evaluate_windows(
                self.state.model,
                windows,
                n_bytes,
                batch_size=batch_size,
                device=self.run.device,
                eot_id=self.run.masking_eot,
            )
            for corpus, windows in self.windows.items()
        }
        own = results.pop(self.stage.corpus)
        self._log_validation(
            f"val loss {own.loss:.4f}, {own.bits_per_byte:.4f} bits per byte"
            + "".join(f"; {corpus} {other.loss:.4f}, {other.bits_per_byte:.4f}" for corpus, other in results.items())
        )
        for corpus, other in results.items():
            self.other_losses[f"val/{corpus}/loss"] = finite_or_none(other.loss)
            self.other_losses[f"val/{corpus}/bits_per_byte"] = finite_or_none(other.bits_per_byte)
        return Validation(own.loss, bits_per_byte=own.bits_per_byte)

    def log(self, row: dict[str, Any]) -> None:
        """Write a row of metrics."""
        self.run.process_group.on_rank_zero(lambda: self._write_row(row))

    def _write_row(self, row: dict[str, Any]) -> None:
        assert self.run.metrics is not None, "rank 0 has them"
        self.run.check_folder_exists()
        self.run.checkpoint_writer.task.raise_if_failed()
        if "val/loss" in row:
            row = row | self.other_losses
        self.run.metrics.log(row)
        if self.run.tracker is not None:
            self.run.tracker.log(row, self.steps_before + row["step"])

    def save(self, kind: str, in_background: bool) -> None:
        """Save a checkpoint, `best` or `last`; if not in the background, all checkpoints are written afterwards."""
        metrics = self.run.metrics_digest(self.plan.name, self.state.progress.step)
        self._save(kind, self.state.progress, metrics, in_background)

    def begin_branch(self, name: str) -> None:
        """Save the current state as the checkpoint `last` of a branch, which starts from it.

        It has no digest of metrics.jsonl, since rows of other stages precede those of the branch.
        """
        self._save("last", self.state.progress.branch(name), None, in_background=True)

    def _save(self, kind: str, progress: Progress, metrics: MetricsDigest | None, in_background: bool) -> None:
        started = time.perf_counter()
        self.run.process_group.on_rank_zero(self.run.check_folder_exists)
        self.run.checkpoint_writer.wait()
        model, optimizer, is_sharded = self.state.model, self.state.optimizer, self.run.device.is_sharded
        state, shards = None, None
        if kind == "last":
            state = self.state.state_dict(has_optimizer=not is_sharded) | {"progress": asdict(progress)}
        if kind == "last" and is_sharded:
            is_finished = progress.stage == self.plan.name and self.plan.is_finished(progress)
            shards = optimizer_tensors(model, optimizer) | ({} if is_finished else weight_tensors(model))
        save_checkpoint(
            self.run.folder / "checkpoints" / progress.stage / kind,
            model,
            progress,
            tokenizer_sha256=self.run.data.tokenizer_sha256,
            run=self.run.folder.name,
            state=state,
            metrics=metrics,
            process_group=self.run.process_group,
            shards=shards,
            writer=self.run.checkpoint_writer if in_background else None,
        )
        self.state.progress.checkpoint_time_s += time.perf_counter() - started


def _restore_last_checkpoint(run: Run, plan: StagePlan, state: TrainState) -> None:
    """Restore weights, training state and metrics from the stage's last checkpoint."""
    info = read_checkpoint(run.folder / "checkpoints" / plan.name / "last")
    load_weights(info, state.model, run.process_group)
    saved = load_state(info)
    if "optimizer" not in saved:
        saved["optimizer"] = load_sharded_optimizer(info, state.model, state.optimizer, run.process_group)
    state.restore(saved)
    step = state.progress.step
    run.rewind_metrics(plan.name, step if step > plan.first_step else step - 1)  # the first step is evaluated again
    run.check_metrics(info)


def _roll_back(run: Run, plan: StagePlan, state: TrainState) -> None:
    """Restore the last checkpoint with half the learning rate. Raises: UserError if that was done before."""
    run.checkpoint_writer.wait()
    name, step, bad = plan.name, state.progress.step, int(state.bad_steps)
    line = f"stage {name} has diverged: at step {step}, {bad} gradients in a row were not finite"
    if state.progress.rollbacks or not has_checkpoint(run.folder / "checkpoints" / name / "last"):
        again = ", at half the learning rate too" if state.progress.rollbacks else ""
        raise UserError(
            f"optimizer.learning_rate={plan.learning_rate}: {line}{again}; try a smaller one with rerun=true, a longer "
            "schedule.warmup_steps, or runtime.precision=fp32"
        )
    _restore_last_checkpoint(run, plan, state)
    state.progress.rollbacks += 1
    state.progress.rate_scale *= 0.5
    run.log_info(f"{line[0].upper()}{line[1:]}; going on from step {state.progress.step} with half the learning rate")


def write_samples(run: Run, tokenizer: Tokenizer, stage: StageConfig, progress: Progress, model: LanguageModel) -> str:
    """Generate from the stage's prompts, which the processes share; return the SHA-256 of the file with the texts."""
    assert isinstance(run.data, PreparedData), "only text has a tokenizer"
    eot_id, model = run.data.eot_id, gather_model(model, run.device)

    def sample(prompt: str) -> dict[str, str]:
        tokens = [eot_id, *encode(tokenizer, prompt)]
        generated = list(generate(model, tokens, run.config.samples, stop=eot_id))
        return {"prompt": prompt, "text": prompt + tokenizer.decode(generated)}

    samples = run.process_group.map(sample, stage.prompts)

    def write() -> str:
        run.check_folder_exists()
        file = run.folder / "samples" / f"{progress.stage}.json"
        write_json(file, samples)
        if run.tracker is not None:
            run.tracker.log_samples(progress.stage, samples, run.global_step(progress.stage, progress.step))
        return file_sha256(file)

    return run.process_group.on_rank_zero(write)
