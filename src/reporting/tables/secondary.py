"""Tables besides the comparison: pairs, costs, forgetting, gaps by budget, generated scripts, and documents.

A row an architecture, by result, the mean over the seeds of comparable runs (± half a 95% interval, from three seeds
on).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

import pandas as pd

from src.config.formatting import NOTHING, show_bytes, show_count, show_flops, show_time
from src.reporting.data.json_values import Record, as_floats, known_values, mean_value
from src.reporting.data.metric import BITS, metric_of
from src.reporting.data.problems import Problems
from src.reporting.data.runs import BRANCH_OF, branches_of, finished_records, load_evaluation, split_of, to_records
from src.reporting.statistics.documents import DocumentLosses, difference_over_documents, losses_of
from src.reporting.statistics.groups import SPLITS, ranking_groups
from src.reporting.statistics.iso_flop import best_size, flops_per_token
from src.reporting.statistics.joint_law import fit_joint_laws, left_out_errors
from src.reporting.statistics.shares import share_interval
from src.reporting.statistics.verdicts import members_by_result, show_mean
from src.reporting.tables.pairs import pair_tables
from src.reporting.tables.table import Column, Mark, Table, Titled
from src.reporting.tables.tasks import task_table

SCRIPTS = {
    "finished": "finished",
    "valid": "valid",
    "findings_per_line": "findings/line",
    "memorised": "memorized",
    "distinct_4": "distinct",
}
"""Values of generated scripts in evaluation.json, and the names of their columns."""
COUNTED = ("finished", "valid")
"""Those that are shares of scripts; memorized and distinct are means of shares of their tokens."""
BROKEN = 0.1
"""Where fewer scripts are valid, the other values describe text that is not a script."""


Evaluations = list[dict[str, Record]]
"""Of each seed: stage -> the content of its evaluation.json."""


def further_tables(runs: pd.DataFrame, problems: Problems | None = None, margin: float | None = None) -> list[Titled]:
    """Build the tables for which any finished run has something; `problems` as for `build_charts`, `margin` as for
    `verdict_lines`."""
    builders: dict[str, Callable[[pd.DataFrame], Titled]] = {"accuracy by difficulty": _difficulty}
    builders |= {"size and cost": _cost, "forgetting": _forgetting}
    for origin, branches in branches_of(runs).items():
        builders[f"gap by budget of {origin}"] = partial(_gap_by_budget, origin=origin, branches=branches)
    builders |= {
        "laws of size and budget": _laws,
        "best size for equal FLOPs": _best_sizes,
        "tasks of lm-eval": task_table,
        "generated scripts": _scripts,
        "differences over documents": _documents,
    }
    every: dict[str, Callable[[], list[Titled]]] = {"pairs": partial(pair_tables, runs, margin)}
    every |= {name: lambda build=build: [build(runs)] for name, build in builders.items()}
    found: list[Titled] = []
    for name, build in every.items():
        found += build() if problems is None else problems.attempt(f"table of {name}", build, [])
    return [each for each in found if each.table.rows]


def _difficulty(runs: pd.DataFrame) -> Titled:
    """Give the accuracy of a task at each length and difficulty of the test, where it has several."""
    names: set[str] = set()

    def rows(members: list[Record]) -> list[list[str]]:
        answers = [found for seed in _evaluations(members) for stage in seed if (found := seed[stage]["answers"])]
        names.update(str(each["difficulty"]) for each in answers if each.get("difficulty"))
        by_difficulty: dict[tuple[float, float], list[float]] = {}
        for each in answers:
            lengths, values, accuracies = (as_floats(each.get(key)) for key in ("length", "value", "accuracy"))
            for length, value, accuracy in zip(lengths, values, accuracies, strict=False):
                if math.isfinite(length) and math.isfinite(accuracy):
                    by_difficulty.setdefault((length, value if math.isfinite(value) else 0.0), []).append(accuracy)
        return [
            [f"{length:.0f}", f"{value:.0f}" if value else NOTHING, show_mean(seeds)]
            for (length, value), seeds in sorted(by_difficulty.items())
        ] * (len(by_difficulty) > 1)

    table = _table(runs, [Column("", "length"), Column("", ""), Column("test", "accuracy")], rows)
    head = " or ".join(sorted(names)).replace("_", " ")
    columns = [replace(column, name=head) if not column.name else column for column in table.columns]
    table = replace(table, columns=columns)
    note = "Share of test answers that are right, at each length and difficulty of the test: means over seeds."
    return Titled("Accuracy by difficulty", table if head else table.without(""), note)


def _cost(runs: pd.DataFrame) -> Titled:
    """List the size and cost of each architecture, means over seeds."""
    columns = {
        "total_params": (Column("parameters", "all"), show_count),
        "non_embedding_params": (Column("parameters", "no embeddings"), show_count),
        "active_non_embedding_params": (Column("parameters", "active"), show_count),
        "train_flops_per_token": (Column("", "FLOPs/token"), show_flops),
        "state_bytes": (Column("", "state"), show_bytes),
        "tokens": (Column("", "tokens"), show_count),
        "train_flops": (Column("", "FLOPs"), show_flops),
        "peak_memory_bytes": (Column("", "memory"), show_bytes),
        "wall_time_s": (Column("", "time"), show_time),
    }

    def row(members: list[Record]) -> list[list[str]]:
        return [[str(len(members)), *(show(mean_value(members, key)) for key, (_, show) in columns.items())]]

    note = (
        "Means over seeds. active: at work for a token, without embeddings. FLOPs: of training, by formula. state: of "
        "a sequence while decoding, at the training context."
    )
    heads = [Column("", "seeds"), *(column for column, _ in columns.values())]
    table = _table(runs, heads, row)
    problems = [group.speed_problem() for group, members in members_by_result(runs) for _ in members]
    time = len(table.columns) - 1
    marks = {(index, time): Mark("gray", problem) for index, problem in enumerate(problems) if problem}
    return Titled("Size and cost", replace(table, marks=marks), note)


def _forgetting(runs: pd.DataFrame) -> Titled:
    """Compare, for each corpus, bits per byte after the stage that learned it and after the last."""

    def rows(members: list[Record]) -> list[list[str]]:
        seeds = _evaluations(members)
        stages = [stage for stage in seeds[0] if not members[0].get(f"{stage}/{BRANCH_OF}")] if seeds else []
        found: list[list[str]] = []
        for stage in stages[:-1]:
            corpus = str(seeds[0][stage]["corpus"])
            pairs = [(_bits(seed, stage, corpus), _bits(seed, stages[-1], corpus)) for seed in seeds]
            complete = [(before, after) for before, after in pairs if before is not None and after is not None]
            if complete:
                before, after = ([pair[side] for pair in complete] for side in (0, 1))
                change = [b - a for a, b in complete]
                found.append([corpus, stages[-1], show_mean(before), show_mean(after), show_mean(change, "+.3f")])
        return found

    columns = [Column("", "corpus"), Column("", "after"), Column("bits/byte", "before"), Column("bits/byte", "then")]
    note = "Test bits per byte of a corpus after the stage that learned it, and after the last one: what was forgotten."
    return Titled("Forgetting", _table(runs, [*columns, Column("", "change")], rows), note)


def _documents(runs: pd.DataFrame) -> Titled:
    """Give the uncertainty over test documents of the differences from the best architecture."""
    groups, rows = ranking_groups(to_records(runs)), list[list[str]]()
    for group in groups:
        seeds = {name: _evaluations(members) for name, members in group.by_architecture().items()}
        for stage in dict.fromkeys(stage for found in seeds.values() for seed in found for stage in seed):
            losses = {name: _document_losses(found, stage) for name, found in seeds.items()}
            known = {name: each for name, each in losses.items() if each is not None}
            best = min(known, key=lambda name: known[name].nats.sum(), default="")
            for name in known.keys() - {best}:
                if found := difference_over_documents(known[name], known[best]):
                    cells = f"{found.value:.3f}", f"{found.low:.3f} to {found.high:.3f}", str(found.n_documents)
                    rows.append([*([group.title] if len(groups) > 1 else []), stage, best, name, *cells])
    names = [*(["size"] if len(groups) > 1 else []), "stage", "best", "other", "behind by", "95% interval", "documents"]
    note = (
        "Bits per byte of the test text, means over seeds. The interval is over documents (bootstrap): what other "
        "documents of the same kind might give. It leaves out the variance of training, which the verdict is about. "
        "Scripts of one package are alike, so the interval of code is rather too short."
    )
    return Titled("Differences over documents", Table([Column("", name) for name in names], sorted(rows), []), note)


def _laws(runs: pd.DataFrame) -> Titled:
    """Give the law of each architecture of a ladder, and how far it missed the largest size without having seen it."""
    rows: list[list[str]] = []
    laws = fit_joint_laws(runs)
    errors = left_out_errors(laws)
    for law in laws:
        error = errors[law.architecture]
        numbers = [f"{number:.3f}" for number in (law.entropy, *law.exponents)]
        missed = NOTHING if error is None else f"{error:+.1%}"
        rows.append([law.architecture, *numbers, str(len(law.points)), f"{law.noise:.1%}", missed])
    names = ("architecture", "E", "alpha", "beta", "gamma", "points", "deviation", "missed by")
    note = (
        "Bits per byte = E + (A / N^alpha + B / D^beta)^gamma, with N active parameters without embeddings and D "
        "tokens; E and gamma are shared by all, and E is the entropy of generated text, otherwise fitted. deviation: "
        "of results from the laws. missed by: the error at the largest size of laws that were fitted without it. "
        "src.advise uses these laws."
    )
    return Titled("Laws of size and budget", Table([Column("", name) for name in names], rows, []), note)


def _best_sizes(runs: pd.DataFrame) -> Titled:
    """Give the size of each architecture of a ladder that is best for the same FLOPs, by two estimates."""
    records = finished_records(runs)
    rows: list[list[str]] = []
    for law in fit_joint_laws(runs):
        if found := best_size(law, flops_per_token(records, law.architecture)):
            cells = [law.architecture, show_flops(found.flops)]
            for size in (found.by_parabola, found.by_law):
                cells += (
                    [NOTHING] * 2 if size is None else [show_count(size.params), f"{size.tokens / size.params:.3g}"]
                )
            rows.append(cells)
    names = ("architecture", "FLOPs", "by parabola", "tokens/param", "by law", "tokens/param")
    note = (
        "The active parameters without embeddings that give the lowest loss for these training FLOPs, and the tokens "
        "for each of them: by a parabola through the results of the sizes, and by the law between them. A dash: the "
        "lowest loss is at the smallest or the largest size."
    )
    return Titled("Best size for equal FLOPs", Table([Column("", name) for name in names], rows, []), note)


def _document_losses(seeds: Evaluations, stage: str) -> DocumentLosses | None:
    if not seeds or any(stage not in seed for seed in seeds):
        return None
    corpus = str(seeds[0][stage]["corpus"])
    return losses_of([seed[stage]["documents"].get(corpus, {}) for seed in seeds])


def _gap_by_budget(runs: pd.DataFrame, origin: str, branches: Sequence[str]) -> Titled:
    """Compare the distance of each architecture to the best at each budget of a stage, the smallest budget first."""
    records = to_records(runs)
    metric = metric_of(records, origin)
    budgets = {
        stage: sorted({record[f"{stage}/tokens"] for record in records if record.get(f"{stage}/tokens") is not None})
        for stage in (*branches, origin)
    }
    stages = sorted(budgets, key=lambda stage: max(budgets[stage], default=0))
    split = split_of(records, stages)
    groups = members_by_result(runs)
    several = len(groups) > 1
    rows: list[list[str]] = []
    for group, by_result in groups:
        found = {
            architecture: [known_values(members, f"{stage}/{split}_{metric.key}") for stage in stages]
            for architecture, members in by_result.items()
        }
        columns_of_means = [[fmean(own) for own in column if own] for column in zip(*found.values(), strict=True)]
        best = [min(map(metric.to_cost, means), default=0.0) for means in columns_of_means]
        for architecture, values in found.items():
            pairs = zip(values, best, strict=True)
            cells = [
                [show_mean(own), f"{metric.to_cost(fmean(own)) - least:.3f}" if own else NOTHING]
                for own, least in pairs
            ]
            rows.append([architecture, *([group.title] if several else []), *(cell for pair in cells for cell in pair)])
    columns = [Column("", "architecture"), *([Column("", "size")] if several else [])]
    for stage in stages:
        head = f"{show_count(budgets[stage][0])} tokens" if len(budgets[stage]) == 1 else stage
        columns += [Column(head, metric.heading), Column(head, "gap")]
    note = (
        f"{SPLITS[split].capitalize()} {metric.unit} after each budget of stage {origin}. gap: the distance to the "
        f"{'least' if metric is BITS else 'best'} mean of the same budget."
    )
    return Titled(f"Gap by budget: {origin}", Table(columns, rows, []), note)


def _scripts(runs: pd.DataFrame) -> Titled:
    """Sum up the generated scripts of each architecture."""

    def rows(members: list[Record]) -> list[list[str]]:
        found: list[list[str]] = []
        seeds = _evaluations(members)
        for stage in seeds[0] if seeds else ():
            summaries = [seed[stage]["scripts"] for seed in seeds if stage in seed and seed[stage]["scripts"].get("n")]
            if summaries:
                n = sum(values["n"] for values in summaries)
                found.append([stage, str(n), *(_script_cell(summaries, key) for key in SCRIPTS)])
        return found

    columns = [Column("", "after"), Column("", "scripts"), *(Column("", name) for name in SCRIPTS.values())]
    note = (
        "Scripts drawn at fixed seeds; none is ever run. finished: ended by the model, not at the limit of tokens "
        "(then cut after the last whole line). valid: bash -n takes it. findings: of shellcheck. memorized: share of "
        "tokens in sequences of 24 that occur in the training text. distinct: share of different sequences of four "
        "tokens. Intervals of finished and valid: 95%, Wilson's, over scripts and seeds; of memorized and distinct: "
        "from the lowest seed to the highest."
    )
    table = _table(runs, columns, rows)
    names = [column.name for column in table.columns]
    valid = names.index("valid")
    marks = {
        (row, column): Mark("gray", f"of architectures with fewer than {BROKEN:.0%} valid scripts")
        for row, cells in enumerate(table.rows)
        if cells[valid] != NOTHING and float(cells[valid].split()[0]) < BROKEN
        for column, name in enumerate(names)
        if name in SCRIPTS.values() and name not in COUNTED
    }
    return Titled("Generated scripts", replace(table, marks=marks), note)


def _script_cell(summaries: Sequence[Record], key: str) -> str:
    """Write the value of a key over seeds, with an interval that a share cannot leave."""
    known = [values for values in summaries if values.get(key) is not None]
    values = [each[key] for each in known]
    if not values or key == "findings_per_line":
        return show_mean(values)
    if key in COUNTED:
        trials = [each["n"] for each in known]
        share, low, high = share_interval([value * n for value, n in zip(values, trials, strict=True)], trials)
    else:
        share, low, high = fmean(values), min(values), max(values)
    return f"{share:.3f} ({low:.2f}–{high:.2f})"


def _table(runs: pd.DataFrame, columns: Sequence[Column], rows: Callable[[list[Record]], list[list[str]]]) -> Table:
    """Put the rows of each architecture of each group below each other."""
    groups = members_by_result(runs)
    several = len(groups) > 1
    body: list[list[str]] = []
    for group, by_result in groups:
        for architecture, members in by_result.items():
            head = [architecture, *([group.title] if several else [])]
            body += [[*head, *row] for row in rows(members)]
    head = [Column("", "architecture"), *([Column("", "size")] if several else [])]
    return Table([*head, *columns], body, [])


def _evaluations(members: Sequence[Record]) -> Evaluations:
    return [found for run in members if (found := load_evaluation(run["run_dir"]))]


def _bits(seed: dict[str, Record], stage: str, corpus: str) -> float | None:
    return seed[stage]["test"].get(corpus, {}).get("bits_per_byte") if stage in seed else None
