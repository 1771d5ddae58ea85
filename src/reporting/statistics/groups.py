"""Groups of comparable runs: those of one size with equal contracts."""

from collections.abc import Sequence
from dataclasses import dataclass

from src.config.comparability import comparable_groups
from src.reporting.data.json_values import Record
from src.reporting.data.metric import metric_of
from src.reporting.data.shared_results import shared

LETTERED = "contract "
SPLITS = {"test": "test", "val": "validation"}
SHARED = "jobs shared the machine"


@dataclass(frozen=True)
class Group:
    """Finished runs of one size with equal contracts: these, and only these, are ranked against each other."""

    size: str
    mark: str
    """Tells apart groups of the same size: by matching rule and budget, else by a letter; empty where there is one."""
    runs: list[Record]

    @property
    def is_lettered(self) -> bool:
        """Whether the matching rule and the budget do not tell it apart."""
        return self.mark.startswith(LETTERED)

    @property
    def short(self) -> str:
        """Short form of the mark, for narrow columns."""
        return self.mark.removeprefix(LETTERED)

    @property
    def title(self) -> str:
        return f"{self.size}, {self.mark}" if self.mark else self.size

    @property
    def budget(self) -> str:
        """What each run was given alike: tokens, flops or time."""
        return str(self.runs[0]["contract"].get("training.budget", "tokens"))

    def by_architecture(self) -> dict[str, list[Record]]:
        """Return the runs of each architecture."""
        members: dict[str, list[Record]] = {}
        for run in self.runs:
            members.setdefault(str(run["architecture"]), []).append(run)
        return members

    def has_repeated_seeds(self) -> bool:
        """Whether an architecture has two runs of one seed, which then differ by something else."""
        seeds = [
            [(run["seed"], run.get("data_order_seed")) for run in runs] for runs in self.by_architecture().values()
        ]
        return any(len(set(pairs)) < len(pairs) for pairs in seeds)

    def has_unequal_text(self) -> bool:
        """Whether runs of one seed have different text, which only `data_draws=each_seed` admits."""
        return len({(run["seed"], run["contract"].get("data_hash")) for run in self.runs}) > len(
            {run["seed"] for run in self.runs}
        )

    def speed_problem(self) -> str | None:
        """Return why speed and time of these runs say nothing about the architectures, or None."""
        if any(run["contract"].get("host_shared") for run in self.runs):
            return SHARED
        if len(comparable_groups({run["run"]: run["contract"] for run in self.runs}, speed=True)) > 1:
            return "the runs had other devices, threads or versions"
        return None

    @property
    def search_differences(self) -> str:
        """What its learning rates were searched for, where that is not these runs."""
        return str(self.runs[0]["contract"].get("search_differences") or "")

    @property
    def is_unsearched(self) -> bool:
        """Whether a learning rate of these runs was not searched for."""
        return any(run["contract"].get("learning_rate_search") == "none" for run in self.runs)


@shared
def ranking_groups(records: Sequence[Record]) -> list[Group]:
    """Group the finished runs by size and contract, in order of appearance."""
    sizes: dict[str, dict[str, Record]] = {}
    for record in records:
        if record["status"] == "done":
            sizes.setdefault(str(record["size"]), {})[record["run"]] = record
    split = {
        size: comparable_groups({name: run["contract"] for name, run in runs.items()}) for size, runs in sizes.items()
    }
    members = [(size, [sizes[size][name] for name in names]) for size, groups in split.items() for names in groups]
    if any(len(groups) > 1 for groups in split.values()):
        rules = [(size, *_rules(runs[0])) for size, runs in members]
        are_distinct = len(set(rules)) == len(rules)
        marks = [_mark(rule[1:]) if are_distinct else f"{LETTERED}{_letter(index)}" for index, rule in enumerate(rules)]
    else:
        marks = [""] * len(members)
    return [Group(size, mark, runs) for (size, runs), mark in zip(members, marks, strict=True)]


RULES = ("match", "training.budget", "stages")
"""Keys of a contract that name a comparison: others than these make runs that no comparison is about."""
BUDGETS = {"tokens": "equal tokens", "flops": "equal FLOPs", "time": "equal time"}


def _rules(run: Record) -> tuple[str, str]:
    return str(run["contract"].get("match")), str(run["contract"].get("training.budget", "tokens"))


def _mark(rules: tuple[str, str]) -> str:
    return f"match {rules[0]}, {BUDGETS.get(rules[1], rules[1])}"


def stage_values(group: Group, stage: str, split: str) -> dict[str, list[float]] | None:
    """Return the cost of each architecture's seeds, bits per byte or error; None where a run has none."""
    metric = metric_of(group.runs, stage)
    key, members = f"{stage}/{split}_{metric.key}", group.by_architecture()
    if any(run.get(key) is None for run in group.runs):
        return None
    return {name: [metric.to_cost(run[key]) for run in runs] for name, runs in members.items()}


def _letter(index: int) -> str:
    return chr(ord("A") + index) if index < 26 else f"#{index + 1}"
