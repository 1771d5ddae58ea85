"""What is measured on finished stages, and how a report judges it."""

from dataclasses import dataclass

from src.config.setting import SEED, WEIGHT, Range, setting


@dataclass
class SamplingConfig:
    """How text is drawn from a model."""

    max_new_tokens: int = setting(200, "Tokens to generate.", Range(1, 10**6, unit="tokens"))
    temperature: float = setting(0.8, "Temperature. 0: always the most probable token.", WEIGHT)
    top_k: int = setting(
        50, "Draw among so many of the most probable tokens. 0: among all.", Range(0, 10**9, unit="tokens")
    )
    seed: int = setting(1, "Seed of the draws.", SEED)


@dataclass
class EvaluationConfig:
    """What is measured on the finished stages of a run, besides loss and bits per byte."""

    enabled: bool = setting(True, "Evaluate at the end of a run. false: the test split stays unread.")
    context_factor: int = setting(
        4, "Longest position for the loss by position, in training.seq_len. 1: not past it.", Range(1, 1024)
    )
    probes: bool = setting(True, "Measure copying, induction and recall of random tokens, by distance.")
    probe_sequences: int = setting(8, "Sequences for each probe and distance.", Range(1, 4096, unit="sequences"))
    scripts: int = setting(
        16,
        "Scripts to generate for each prompt of a stage on code. bash -n and shellcheck read them; 0: none.",
        Range(0, 4096, unit="scripts"),
    )
    script_tokens: int | None = setting(
        None, "Longest script. null: as long as the training context.", Range(1, 10**6, unit="tokens")
    )


@dataclass
class VerdictConfig:
    """What a report says of the results; it changes no run."""

    margin: float | None = setting(
        None,
        "Largest difference at which architectures count as equivalent. null: none are called equivalent.",
        Range(0, 1000, above=True, unit="bits per byte"),
    )
