"""The stages of a run."""

from dataclasses import dataclass

from src.config.setting import FACTOR, MISSING, POSITIVE_SHARE, TOKENS, setting


@dataclass
class StageConfig:
    """One stage of training."""

    corpus: str = setting(MISSING, "Corpus to train on, and to be evaluated on.", choices=("language", "code", "task"))
    max_tokens: int | None = setting(None, "Budget of the stage. null: training.max_tokens.", TOKENS)
    prompts: list[str] = setting([], "Prompts to continue after the stage, as samples for the report.")
    learning_rate_scale: float = setting(1.0, "Factor on optimizer.learning_rate in this stage.", FACTOR)
    mixture: dict[str, float] = setting(
        {},
        "Shares of other corpora among the sequences, such as {language: 0.25}. The rest is of the stage's own corpus. "
        "Each corpus is evaluated, which shows what the stage makes the model forget.",
        POSITIVE_SHARE,
    )
    branch_of: str | None = setting(
        None,
        "Stage that this one branches from. It gives the result of a smaller budget for the price of "
        "its decay: it continues from the step of "
        "that stage at which the decay of the smaller budget begins. Needs schedule=wsd.",
    )
    budget_share: float | None = setting(None, "Budget of a branch, as a share of that of its origin.", POSITIVE_SHARE)

    @property
    def corpora(self) -> list[str]:
        """All that the stage reads, its own corpus first."""
        return [self.corpus, *self.mixture]


@dataclass
class PlanConfig:
    """The stages of a run, in order; each starts from the weights of the one before."""

    name: str = setting(MISSING, "Name of the plan, a part of the names of its runs.", form="name")
    stages: dict[str, StageConfig] = setting({}, "The stages by name.")
