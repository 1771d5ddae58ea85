"""The table of tasks of lm-eval: the score of each architecture with its interval, and its distance to the best."""

import pandas as pd

from src.config.formatting import NOTHING
from src.reporting.data.runs import to_records
from src.reporting.statistics.groups import ranking_groups
from src.reporting.statistics.task_scores import behind_best, compare_tasks, mean_interval
from src.reporting.statistics.verdicts import reason_for_no_verdict
from src.reporting.tables.table import Column, Mark, Table, Titled

NOTE = (
    "Scores on tasks of lm-eval after a stage, with their 95% intervals over items, and over seeds where there are "
    "several. behind: distance to the best of the task; its interval covers all pairs of all tasks (Bonferroni) and "
    "needs three seeds. Gray: not significant."
)


def task_table(runs: pd.DataFrame) -> Titled:
    """List the architectures of each group on each task, the best first."""
    compared, rows = compare_tasks(ranking_groups(to_records(runs))), list[list[str]]()
    marks, several = dict[tuple[int, int], Mark](), len({each.group.title for each in compared}) > 1
    n_pairs = sum(each.n_pairs for each in compared if reason_for_no_verdict(each.group) is None)
    names = ["architecture", *(["size"] if several else []), "after", "task", "metric", "items", "score", "interval"]
    names += ["behind", "95% interval"]
    for each in compared:
        behind = behind_best(each, n_pairs) if reason_for_no_verdict(each.group) is None else {}
        for name, scores in each.scores.items():
            own, gap = mean_interval(scores), behind.get(name)
            if gap is not None and not gap.is_significant:
                marks |= {(len(rows), len(names) - k): Mark("gray", "not significant") for k in (1, 2)}
            rows.append(
                [name, *([each.group.title] if several else []), each.stage, each.task, each.metric, str(each.n_items)]
                + [f"{own.value:.3f}", f"{own.low:.3f} to {own.high:.3f}"]
                + ([f"{gap.value:.3f}", f"{gap.low:.3f} to {gap.high:.3f}"] if gap else [NOTHING, NOTHING])
            )
    return Titled("Tasks of lm-eval", Table([Column("", name) for name in names], rows, [], marks), NOTE)
