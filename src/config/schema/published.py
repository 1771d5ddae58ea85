"""Published results that `python -m src.validate` checks, and the tolerance of each."""

from dataclasses import dataclass

from src.config.setting import MISSING, SHARE, Range, setting


@dataclass
class ExpectedConfig:
    """The test accuracy that a published result says of an architecture."""

    low: float = setting(MISSING, "Lowest test accuracy that counts as reproduced.", SHARE)
    high: float = setting(MISSING, "Highest test accuracy that counts as reproduced.", SHARE)
    published: str = setting(MISSING, "What the source says of it.")


@dataclass
class CheckConfig:
    """A published result, the experiment that repeats it, and what is expected."""

    experiment: str = setting(MISSING, "Experiment of experiments/, by its name.")
    settings: list[str] = setting([], "Further settings of its runs, as on a command line.")
    source: str = setting(MISSING, "The publication.")
    tolerance: str = setting(MISSING, "Where the tolerance comes from.")
    is_quick: bool = setting(False, "Whether quick=true runs it.")
    expected: dict[str, ExpectedConfig] = setting({}, "What is expected, by the architecture as a report names it.")


@dataclass
class ValidateConfig:
    """`python -m src.validate`."""

    output_root: str = setting("outputs", "Folder for runs and sweeps.", form="path")
    dry_run: bool = setting(False, "Print the runs and their cost. Nothing is started or written.")
    quick: bool = setting(False, "Run the quick checks alone, with one seed.")
    seeds: int = setting(3, "Seeds of each run.", Range(1, 64))
    checks: dict[str, CheckConfig] = setting({}, "The published results by name.")
