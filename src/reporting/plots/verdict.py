"""The verdict as a chart: every seed, each mean with its interval, and what is significant."""

import pandas as pd

from src.reporting.data.metric import BITS
from src.reporting.data.runs import split_of, stage_names, to_records
from src.reporting.plots.chart import Axis, Chart, Panel, Trace, panel_title, trace_of
from src.reporting.statistics.groups import SPLITS
from src.reporting.statistics.significance import mean_and_half_width
from src.reporting.statistics.verdicts import Headline, compare_headlines

NOT_RANKED = "unstable, not ranked"


def verdict_chart(runs: pd.DataFrame, margin: float | None = None) -> Chart:
    """Chart bits per byte or accuracy of every architecture: seeds, mean and its 95% interval, the verdict in words.

    The best mean is first; an unstable architecture is last and shown by its seeds alone. margin: the difference in
    bits per byte within which architectures count as equivalent (`verdict.margin`).
    """
    headlines = {(headline.group.title, headline.stage): headline for headline in compare_headlines(runs)}
    titles, stages = (list(dict.fromkeys(names)) for names in zip(*headlines, strict=True)) if headlines else ([], [])
    panels = [
        Panel(
            panel_title(stage, title, titles),
            _verdict_traces(headlines[title, stage], margin) if (title, stage) in headlines else [],
        )
        for title in titles
        for stage in stages
    ]
    split = SPLITS[split_of(to_records(runs), stage_names(runs))]
    metrics = list(dict.fromkeys(headline.metric for headline in headlines.values())) or [BITS]
    direction = {"lowest": "less", "highest": "more"}
    quantity = "; ".join(f"{m.unit.capitalize()}, {direction[m.best]} is better" for m in metrics)
    return Chart(
        "verdict",
        f"Verdict on {split} {'text' if BITS in metrics else 'answers'}",
        f"{quantity}: each seed, and means with their own 95% intervals. Whether two means differ is "
        "in the words and in the table Pairs, not in these intervals.",
        {"": Axis(" or ".join(m.unit for m in metrics))},
        {"": Axis("")},
        {"verdict": ""},
        panels,
        kind="intervals",
        columns=len(stages) or 1,
    )


def verdict_words(headline: Headline, margin: float | None = None) -> dict[str, str]:
    """Say in a few words what the verdict is on each architecture of a headline."""
    comparison = headline.comparison
    words = {comparison.leader: "best" if headline.has_best else f"{headline.metric.best} mean"}
    for pair in comparison.behind_leader():
        result = headline.result(pair, margin)
        words[pair.other] = {"equivalent": result, "not significant": "not significantly worse"}.get(
            result, "significantly worse"
        )
    return words | dict.fromkeys(comparison.unstable, NOT_RANKED)


def _verdict_traces(headline: Headline, margin: float | None) -> list[Trace]:
    comparison, words = headline.comparison, verdict_words(headline, margin)
    traces: list[Trace] = []
    for name in (*comparison.stable, *comparison.unstable):
        trace = trace_of(name)
        costs = comparison.stable.get(name, comparison.unstable.get(name, []))
        seeds = [headline.metric.to_cost(cost) for cost in costs]
        trace.seeds[""], trace.text[""] = [*seeds], words[name]
        if name in comparison.stable:
            mean, half = mean_and_half_width(seeds)
            trace.y[""], trace.text[""] = [mean], f"{mean:.3f} {words[name]}"
            trace.low[""], trace.high[""] = [mean - (half or 0)], [mean + (half or 0)]
        traces.append(trace)
    return traces
