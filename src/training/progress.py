"""How far a stage of a run has come."""

from dataclasses import dataclass, replace


@dataclass
class Progress:
    """The progress of a stage: the state of the loop besides weights and optimizer."""

    stage: str
    step: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    bad_steps: int = 0
    """Skipped in a row, up to the current step."""
    rollbacks: int = 0
    rate_scale: float = 1.0
    """Factor on the learning rate: a rollback halves it."""
    recounted_steps: int | None = None
    """The steps of the whole stage, once they are counted again by their time."""
    wall_time_s: float = 0.0
    """Since the stage began, summed over resumed runs."""
    train_time_s: float = 0.0
    """The part of it in training steps."""
    val_loss: float | None = None
    val_bits_per_byte: float | None = None
    val_accuracy: float | None = None
    """Of the answers, for a task."""
    best_val_loss: float | None = None
    shared_tokens: int = 0
    """The part of `tokens` that the origin of a branch trained on; likewise for the two times below."""
    shared_wall_time_s: float = 0.0
    shared_train_time_s: float = 0.0
    checkpoint_time_s: float = 0.0
    """The part of `wall_time_s` in which training waited for checkpoints."""

    def branch(self, stage: str) -> "Progress":
        """Return the initial progress of a branch that starts here."""
        return replace(
            self,
            stage=stage,
            best_val_loss=None,
            shared_tokens=self.tokens,
            shared_wall_time_s=self.wall_time_s,
            shared_train_time_s=self.train_time_s,
        )
