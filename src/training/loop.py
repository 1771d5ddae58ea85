"""The training loop of one stage.

1. Batch number `step` is a function of the seed and the step, so the loader has no state to save.
2. One optimizer step; it synchronizes with the device only if the step is logged. The next batch is loaded while the
   device computes.
3. At their intervals: a row of metrics, an evaluation on fixed windows, checkpoints. An evaluation comes before the
   checkpoint of the same step, so a resumed run neither repeats nor misses one.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from tqdm import tqdm

from src.config.schema import ScheduleConfig, TrainingConfig
from src.data.loader import Loader
from src.runtime.atomic_files import finite_or_none
from src.runtime.device import Device
from src.runtime.signals import Interrupted, StopRequest
from src.training.moe_metrics import describe_balance
from src.training.progress import Progress
from src.training.schedule import learning_rate_factor
from src.training.stage_budget import StagePlan
from src.training.train_step import StepOutput, TrainState, train_step


class Validation(NamedTuple):
    """The result of a validation."""

    loss: float
    """Nats per token, or per answer of a task."""
    bits_per_byte: float | None = None
    """Of text."""
    accuracy: float | None = None
    """Of the answers of a task."""


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the loop: evaluation, metrics, checkpoints."""

    evaluate: Callable[[], "Validation"]
    log: Callable[[dict[str, Any]], None]
    save: Callable[[str, bool], None]
    """Save a checkpoint as `best` or as `last`; true: in the background, while training goes on."""
    begin_branch: Callable[[str], None]
    """Save the first checkpoint of a branch."""


class Diverged(Exception):
    """Too many steps in a row had a non-finite gradient."""


class Stopwatch:
    """Time in training steps and total time."""

    def __init__(self, progress: Progress, device: Device) -> None:
        self.progress, self.device = progress, device
        self.train_mark = self.wall_mark = time.perf_counter()
        self.last_read = (progress.tokens, progress.train_time_s)

    def pause(self) -> None:
        """Add the time since `resume` to the training time."""
        self.device.synchronize()
        now = time.perf_counter()
        self.progress.train_time_s += now - self.train_mark
        self.resume()

    def resume(self) -> None:
        """Exclude the time since `pause` from the training time."""
        self.train_mark = time.perf_counter()
        self.progress.wall_time_s += self.train_mark - self.wall_mark
        self.wall_mark = self.train_mark

    def tokens_per_second(self) -> float:
        """Return the training speed since the last call."""
        before, self.last_read = self.last_read, (self.progress.tokens, self.progress.train_time_s)
        return (self.last_read[0] - before[0]) / max(1e-9, self.last_read[1] - before[1])


def fit(
    state: TrainState,
    plan: StagePlan,
    loader: Loader,
    training: TrainingConfig,
    schedule: ScheduleConfig,
    grad_clip: float,
    device: Device,
    hooks: Hooks,
    stop: StopRequest,
    eot_id: int | None = None,
    seed: int = 0,
) -> None:
    """Train from `state` until the plan is finished, or its steps are to be counted again.

    `eot_id` as in `train_step`. The seed determines the dropout.

    Raises:
        Interrupted: a stop signal arrived; the checkpoint `last` is saved.
        Diverged: `training.max_nonfinite_steps` steps in a row were skipped, checked whenever a step is logged.
    """
    progress, size = state.progress, training.global_batch_size
    stopwatch = Stopwatch(progress, device)
    rows = device.process_group.rank_slice(size)
    batches = (device.tensor(loader.batch(step, size, rows)) for step in range(progress.step, plan.steps))
    batch = next(batches, None)
    state.model.train()
    with _progress_bar(progress, plan, device) as bar:
        if progress.step == plan.first_step:
            _evaluate(state, plan, device, hooks)
            stopwatch.resume()
        while batch is not None:
            factor = progress.rate_scale * learning_rate_factor(progress.step, plan.steps, schedule)
            learning_rate = plan.learning_rate * factor
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate
            output = train_step(
                state,
                batch,
                micro_batch_size=training.micro_batch,
                grad_clip=grad_clip,
                device=device,
                eot_id=eot_id,
                dropout=training.dropout,
                embedding_dropout=training.embedding_dropout,
                key=(seed, plan.origin, progress.step),
            )
            batch = next(batches, None)
            state.count(output.skipped)
            progress.step += 1
            progress.tokens += size * training.seq_len
            bar.update()

            last = progress.step == plan.steps
            if last or progress.step % training.log_every == 0:
                stopwatch.pause()
                speed = stopwatch.tokens_per_second()
                hooks.log(
                    progress_row(progress, plan, device)
                    | {"perf/tokens_per_second": speed, "train/learning_rate": learning_rate}
                    | step_metrics(output, state)
                )
                bar.set_postfix(loss=float(output.loss), tokens_per_s=round(speed))
                if state.bad_steps >= training.max_nonfinite_steps:
                    raise Diverged
            if last or progress.step % plan.eval_every == 0:
                stopwatch.pause()
                _evaluate(state, plan, device, hooks)
                stopwatch.resume()
                last = plan.is_finished(progress)
            for branch, first in plan.branches.items():
                if progress.step == first:
                    stopwatch.pause()
                    hooks.begin_branch(branch)
                    stopwatch.resume()
            due = progress.step % plan.checkpoint_every == 0 and not state.bad_steps
            # Read once per step: a later signal is handled after the next step.
            stop_signal = device.process_group.all_reduce_max(stop.number)
            if last or stop_signal or due:
                stopwatch.pause()
                hooks.save("last", not (last or stop_signal))
                stopwatch.resume()
            if last:
                return
            if stop_signal:
                raise Interrupted(stop_signal)
            if plan.is_recount_due(progress):
                stopwatch.pause()
                return


def _progress_bar(progress: Progress, plan: StagePlan, device: Device) -> "tqdm[Any]":
    is_disabled = None if device.process_group.is_rank_zero else True  # None: silent if the output is not a terminal
    return tqdm(total=plan.steps, initial=progress.step, desc=plan.name, unit="step", disable=is_disabled, leave=False)


def step_metrics(output: StepOutput, state: TrainState) -> dict[str, Any]:
    """Return the metrics of one step; synchronizes with the device."""
    row = {
        "train/loss": finite_or_none(float(output.loss)),
        "train/grad_norm": finite_or_none(float(output.grad_norm)),
        "train/skipped_steps": int(state.skipped_steps),
    }
    return row if output.expert_load is None else row | describe_balance(output.expert_load, output.router_z)


def progress_row(progress: Progress, plan: StagePlan, device: Device) -> dict[str, Any]:
    """Return the position in the stage as columns of a row of metrics."""
    return {
        "stage": plan.name,
        "step": progress.step,
        "tokens": progress.tokens,
        "flops": progress.tokens * plan.flops_per_token,
        "wall_time_s": round(progress.wall_time_s, 3),
        "perf/checkpoint_time_s": round(progress.checkpoint_time_s, 3),
        "perf/peak_memory_bytes": device.memory_bytes(),
    }


def _evaluate(state: TrainState, plan: StagePlan, device: Device, hooks: Hooks) -> None:
    loss, bits_per_byte, accuracy = hooks.evaluate()
    progress = state.progress
    progress.val_loss, progress.val_bits_per_byte, progress.val_accuracy = loss, bits_per_byte, accuracy
    row = {"val/loss": finite_or_none(loss)}
    row |= {} if bits_per_byte is None else {"val/bits_per_byte": finite_or_none(bits_per_byte)}
    row |= {} if accuracy is None else {"val/accuracy": accuracy}
    hooks.log(progress_row(progress, plan, device) | row)
    best = progress.best_val_loss
    if best is None or not math.isfinite(best) or loss < best:
        progress.best_val_loss = loss
        hooks.save("best", True)
