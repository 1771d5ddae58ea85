"""The optimizer and the schedule of its learning rate."""

from dataclasses import dataclass

from src.config.setting import (
    FACTOR,
    MISSING,
    POSITIVE_SHARE,
    RATE,
    SHARE,
    SHARE_BELOW_1,
    STEPS,
    WEIGHT,
    Range,
    setting,
)  # fmt: skip


@dataclass
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, 2019), or Muon (Jordan et al., 2024) for matrices with AdamW for the rest."""

    name: str = setting(MISSING, "Optimizer. muon is for matrices; the rest has adamw.", choices=("adamw", "muon"))
    learning_rate: float = setting(MISSING, "Peak learning rate.", RATE)
    betas: list[float] = setting([0.9, 0.95], "The two decay rates of adamw's averages, both below 1.", SHARE)
    eps: float = setting(1e-8, "Term in the denominator of adamw's step.", FACTOR)
    momentum: float = setting(0.95, "Momentum of muon's matrices.", SHARE_BELOW_1)
    weight_decay: float = setting(
        0.1, "Weight decay of matrices. Never of norms, biases, embeddings, A_log, D and dt_bias.", WEIGHT
    )
    grad_clip: float = setting(1.0, "Largest norm of the gradient. 0 switches clipping off.", Range(0, 10**12))
    search: str = setting("none", "How the learning rate was found. Set by learning_rates.")
    search_differences: list[str] = setting(
        [], "What the search was made for, where that differs from this run. Set by learning_rates."
    )


@dataclass
class ScheduleConfig:
    """Learning rate by step, as a factor on the peak; it always ends where the stage ends."""

    name: str = setting(
        MISSING,
        "Form of the schedule. cosine and linear decay from the warm-up on; wsd is warm-up, stable, linear decay.",
        choices=("cosine", "linear", "wsd"),
    )
    warmup_steps: int | None = setting(
        None,
        "Steps of warm-up. null: a twentieth of the stage, but at least 100 steps, and at most a third of the stage.",
        Range(0, 10**12, unit="steps"),
    )
    searched: bool = setting(False, "Whether learning_rates chose the warm-up. Set by it.")
    min_ratio: float = setting(0.1, "Last learning rate over the peak.", SHARE)
    update_every: int = setting(
        1,
        "Steps between changes of the rate after the warm-up. Those of an epoch give a schedule by epoch.",
        STEPS,
    )
    decay_fraction: float = setting(0.2, "Share of the stage that decays, for wsd.", POSITIVE_SHARE)
