"""A synthetic task as data: its name, its difficulty in training, and the difficulties that it is tested at."""

from dataclasses import dataclass

from src.config.setting import LENGTH, SHARE_BELOW_1, WEIGHT, Range, setting

TASKS = (
    *("mqar", "associative_recall", "induction", "copying", "selective_copying", "parity", "modular_arithmetic"),
    *("in_context_recall", "noisy_recall", "fuzzy_recall", "memorization", "compression"),
)
COUNT = Range(1, 2**20)


@dataclass
class TaskConfig:
    """A task that is generated for each batch; sequences have the length training.seq_len."""

    name: str = setting("none", "Task to train on. none: the data is text.", choices=("none", *TASKS))
    vocab_size: int = setting(
        64, "Tokens of the task, special ones included. How they are used is in its file.", Range(2, 2**20)
    )
    examples: int | None = setting(
        None,
        "Training examples. An epoch has each once, in another order than the last. null: new ones at every step.",
        Range(1, 10**9, unit="examples"),
    )
    min_length: int | None = setting(
        None,
        "Shortest training sequence, up to training.seq_len. Lengths are uniform between them, and shorter sequences "
        "are padded. null: all have training.seq_len.",
        LENGTH,
    )
    test_lengths: list[int] = setting(
        [], "Lengths of validation and test sequences. Empty: training.seq_len.", LENGTH
    )  # fmt: skip
    pairs: int | None = setting(None, "Pairs of key and value. For mqar.", COUNT)
    test_pairs: list[int] = setting(
        [], "Pairs to test at, each with each length that it fits into. Empty: pairs.", COUNT
    )
    query_power: float = setting(
        0.01,
        "Exponent a of the distances of queries. Their probability is in proportion to gap^(a - 1). For mqar.",
        WEIGHT,
    )
    tokens_to_copy: int | None = setting(None, "Tokens to copy. For copying and selective_copying.", COUNT)
    test_tokens_to_copy: list[int] = setting([], "Tokens to copy in the test. Empty: tokens_to_copy.", COUNT)
    noise_vocab_size: int | None = setting(
        None, "Tokens of the vocabulary that are noise. For noisy_recall.", COUNT
    )  # fmt: skip
    noise_share: float | None = setting(None, "Share of noise among the pairs. For noisy_recall.", SHARE_BELOW_1)
    motif_length: int | None = setting(None, "Most tokens of a key or value. For fuzzy_recall.", Range(1, 8))

    @property
    def has_decoder(self) -> bool:
        """Whether a decoder reads the answers of all positions from the last hidden state."""
        return self.name == "compression"
