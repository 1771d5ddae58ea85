"""Batches and budget of training."""

from dataclasses import dataclass

from src.config.setting import LENGTH, MISSING, SECONDS, SEQUENCES, SHARE_BELOW_1, STEPS, TOKENS, Range, setting

BF16_WEIGHTS = ("bf16_weights", "lean")
"""Values of `memory` with which the matrices of the blocks, and their gradients, are bf16."""
INT8_MOMENTS = ("int8_moments", "lean")
"""Values of `memory` with which the moments of AdamW have 8 bits."""
WINDOWS = Range(1, 10**7, unit="sequences")


@dataclass
class TrainingConfig:
    """Batches, budget, and how often things happen (in optimizer steps)."""

    seq_len: int = setting(MISSING, "Length of a sequence, the training context.", LENGTH)
    global_batch_size: int = setting(MISSING, "Sequences of an optimizer step.", SEQUENCES)
    micro_batch_size: int | str = setting(
        MISSING,
        "Sequences of a forward pass. Gradients accumulate over global_batch_size / micro_batch_size passes. auto: the "
        "most that fit, found by trying before the first step.",
        SEQUENCES,
        choices=("auto",),
    )
    budget: str = setting(
        "tokens",
        "Budget that is equal for every architecture in each stage. tokens: max_tokens. flops: the FLOPs of dense for "
        "max_tokens. time: max_seconds. The schedule ends where the budget ends.",
        choices=("tokens", "flops", "time"),
    )
    max_tokens: int = setting(
        MISSING,
        "Tokens of each stage, in whole steps. max_steps can end it earlier, and stage.stages.NAME.max_tokens replaces "
        "it for one stage. With budget=flops these are the tokens of dense, with budget=time measured steps replace "
        "them.",
        TOKENS,
    )
    tokens_per_parameter: float | None = setting(
        None,
        "Budget of a stage by the size of its model. Tokens for each active parameter of dense without embeddings, "
        "alike for all architectures of a size. Replaces max_tokens.",
        Range(0, 10**6, above=True, unit="tokens"),
    )
    max_seconds: float | None = setting(
        None,
        "Time of the training steps in each stage, with budget=time. The number of steps follows from a measurement "
        "at the start, and until the rate decays from the time so far.",
        SECONDS,
    )
    measured_steps: int | None = setting(None, "Result of the measurement at the start. Set by the run.", STEPS)
    memory: str = setting(
        "full",
        "Form of weights and moments. full: fp32, 16 bytes a parameter. int8_moments: adamw's moments in 8 bits. "
        "bf16_weights: matrices of blocks and their gradients in bf16, stochastically rounded. lean: both, 6 bytes.",
        choices=("full", "int8_moments", "bf16_weights", "lean"),
    )
    dropout: float = setting(
        0.0,
        "Dropout rate in training. Of the embedding, and of what each block adds to the residual stream.",
        SHARE_BELOW_1,
    )
    embedding_dropout: float = setting(
        0.0,
        "Dropout rate of the embedding alone, in training. With training.dropout, leave it out.",
        SHARE_BELOW_1,
    )
    sampling: str = setting(
        "epochs",
        "How windows of the training text are drawn. epochs: each window once an epoch. replacement: each window "
        "begins at a random position.",
        choices=("epochs", "replacement"),
    )
    document_masking: bool = setting(False, "A position sees only its own document in the window. In evaluation too.")
    max_steps: int | None = setting(
        None, "Optimizer steps after which a stage ends, if that is sooner. With budget=flops: those of dense.", STEPS
    )
    log_every: int = setting(10, "Steps between two lines of metrics.", STEPS)
    eval_every: int | None = setting(None, "Steps between validations. null: ten times a stage.", STEPS)
    eval_sequences: int = setting(
        64, "Validation windows. They are fixed, and the same for every run on the same data.", WINDOWS
    )
    test_sequences: int = setting(
        256, "Test windows, read once when the run is over. More windows give a verdict more documents.", WINDOWS
    )
    stop_accuracy: float | None = setting(
        None, "A stage ends once the validation accuracy of a task is above this.", SHARE_BELOW_1
    )
    checkpoint_every: int | None = setting(None, "Steps between checkpoints. null: ten times a stage.", STEPS)
    max_nonfinite_steps: int = setting(
        20,
        "Steps in a row with a gradient that is not finite, before a rollback. The run then continues from its last "
        "checkpoint with half the rate, once; the second time it gives up.",
        STEPS,
    )

    @property
    def micro_batch(self) -> int:
        """`micro_batch_size`, where it is no longer `auto`."""
        assert isinstance(self.micro_batch_size, int)
        return self.micro_batch_size
