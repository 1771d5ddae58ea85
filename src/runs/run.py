"""State of a run that its stages, its evaluation and its checkpoints share."""

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tokenizers import Tokenizer

from src.config.schema import TrainConfig
from src.data.dataset import Data, PreparedData
from src.model.cost.model_cost import ModelCost
from src.model.language_model import LanguageModel
from src.model.size_matching import Match
from src.runs.summary import FILE, Summary
from src.runtime.device import Device
from src.runtime.distributed import ProcessGroup
from src.runtime.log import LogFunction
from src.runtime.records import MetricsDigest, write_record
from src.runtime.run_lock import run_removed_error
from src.runtime.signals import StopRequest
from src.tracking.jsonl import JsonlLog
from src.tracking.tracker import Tracker
from src.training.checkpoint import CheckpointInfo
from src.training.checkpoint_writer import CheckpointWriter
from src.training.compilation import Forward
from src.training.optimizers import build_optimizer
from src.training.stage_budget import plan_stage
from src.training.train_step import TrainState


@dataclass
class Run:
    """State of a run that all its parts share."""

    config: TrainConfig
    data: Data
    folder: Path
    device: Device
    match: Match
    cost: ModelCost
    tokenizer: Tokenizer | None
    """None: the data is a task."""
    summary: Summary
    metrics: JsonlLog | None
    """None except in rank 0, as is the tracker."""
    tracker: Tracker | None
    stop: StopRequest
    log_info: LogFunction
    is_held: Callable[[], bool]
    """Returns whether `folder` is still the locked directory."""
    checkpoint_writer: CheckpointWriter
    metrics_lost: bool = False
    """Whether rows of metrics were found missing or changed."""

    @property
    def process_group(self) -> ProcessGroup:
        """The processes that train the run."""
        return self.device.process_group

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process writes files and logs."""
        return self.process_group.is_rank_zero

    def begin_state(self, stage: str, model: LanguageModel, forward: Forward) -> TrainState:
        """Create the state of a new stage, with a new optimizer."""
        optimizer = build_optimizer(model, self.config.optimizer, self.config.training.memory, self.process_group)
        return TrainState.begin(stage, model, optimizer, self.device, forward)

    def global_step(self, stage: str, step: int) -> int:
        """Return the step counted over all stages, unique per stage, since trackers merge rows of equal steps."""
        stages = self.config.stage.stages
        before = list(stages)[: list(stages).index(stage)]
        *earlier, own = (plan_stage(self.config, name, stages[name], 0) for name in [*before, stage])
        ended = self.summary["stages"]  # after another number of steps than planned, if its budget is a time
        last_steps = {plan.name: ended[plan.name]["steps"] if plan.name in ended else plan.steps for plan in earlier}
        return step - own.first_step + sum(last_steps[plan.name] - plan.first_step + 1 for plan in earlier)

    def rewind_metrics(self, stage: str, step: int) -> None:
        """Drop the rows after `step` of `stage`."""
        if self.metrics is not None:
            self.metrics.rewind(list(self.config.stage.stages), stage, step)
        if self.tracker is not None:
            self.tracker.rewind(self.global_step(stage, step))

    @property
    def masking_eot(self) -> int | None:
        """The token between documents if documents are masked, otherwise None."""
        if not self.config.training.document_masking or not isinstance(self.data, PreparedData):
            return None
        return self.data.eot_id

    def check_folder_exists(self) -> None:
        """Raise UserError if the run directory was removed: writing would create a partial one."""
        if not self.is_held():
            raise run_removed_error(self.folder)

    def metrics_digest(self, stage: str, step: int) -> MetricsDigest | None:
        """Return the digest of the metrics rows up to a step, for a checkpoint."""
        return self.metrics and self.metrics.digest(list(self.config.stage.stages), stage, step)

    def check_metrics(self, info: CheckpointInfo) -> None:
        """Log a warning if the metrics rows up to a checkpoint were lost or changed."""
        known, found = info.metrics, self.metrics_digest(info.progress.stage, info.progress.step)
        if known is None or found is None or known == found:
            return
        self.metrics_lost = True
        rows = f"{found.rows} of {known.rows} rows" if found.rows != known.rows else f"the {known.rows} rows"
        change = "are left" if found.rows != known.rows else "have changed"
        self.log_info(
            f"metrics.jsonl: {rows} up to step {info.progress.step} of stage {info.progress.stage} {change}; results "
            "do not depend on them, but the curves of the report do; rerun=true trains the run again"
        )

    def write_summary(self) -> None:
        if self.is_rank_zero:
            self.check_folder_exists()
            if self.metrics is not None:
                stages = list(self.config.stage.stages)
                mark = asdict(self.metrics.digest(stages, stages[-1], sys.maxsize))
                lost = self.metrics_lost or self.summary.get("metrics", {}).get("lost", False)
                self.summary["metrics"] = {"rows": mark["rows"], "sha256": mark["sha256"], "lost": lost}
            write_record(self.folder / FILE, self.summary)
