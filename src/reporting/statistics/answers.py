"""The answer of a report: one sentence for each headline, the same on the page, in Markdown and in the terminal."""

from collections.abc import Sequence

import pandas as pd

from src.reporting.statistics.significance import Pair
from src.reporting.statistics.verdicts import Headline, compare_headlines, count_seeds

MAX_PAIRS = 3
"""Pairs behind the best that are named; more are counted."""


def answer_lines(runs: pd.DataFrame, margin: float | None = None) -> list[str]:
    """Write what was found in each headline; nothing without a verdict, whose reason is in `verdict_lines`.

    margin: as for `verdict_lines`.
    """
    headlines = compare_headlines(runs)
    several = len({headline.group.title for headline in headlines}) > 1
    return [
        f"{f'{headline.group.title}, ' if several else ''}{headline.stage}: {_answer(headline, margin)}"
        for headline in headlines
    ]


def join_words(words: Sequence[str]) -> str:
    """Write a list as in a sentence: a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def _answer(headline: Headline, margin: float | None) -> str:
    comparison, behind = headline.comparison, headline.comparison.behind_leader()
    if headline.has_best:
        gaps = [f"{_gap(pair)}{' bits per byte better' * (not i)} than {pair.other}" for i, pair in enumerate(behind)]
        parts = [f"{comparison.leader} learned most: {join_words(gaps)}"]
        others = [pair for pair in comparison.pairs if pair.better != comparison.leader]
        open_pairs = [f"{pair.better} and {pair.other}" for pair in others if not pair.is_significant]
        if len(open_pairs) > MAX_PAIRS:
            open_pairs = [f"{len(open_pairs)} of the {len(others)} other pairs"]
        parts += [f"no significant difference between {join_words(open_pairs)}"] if open_pairs else []
    else:
        parts = [f"no architecture is significantly best: {comparison.leader} has the lowest mean"]
        for result, words in (
            ("not significant", "not significantly worse"),
            ("equivalent", f"equivalent within {margin} bits per byte"),
            ("significant", "significantly worse"),
        ):
            found = [pair for pair in behind if headline.result(pair, margin) == result]
            if found:
                unit = " bits per byte behind" * (len(parts) == 1)
                names = [f"{pair.other} ({_gap(pair)}{unit * (not i)})" for i, pair in enumerate(found)]
                parts.append(f"{join_words(names)} {'is' if len(found) == 1 else 'are'} {words}")
    if unstable := list(comparison.unstable):
        verb = "is" if len(unstable) == 1 else "are"
        parts.append(f"{join_words(unstable)} {verb} unstable at this learning rate and not ranked")
    if headline.group.search_differences:
        parts.append("learning rates were searched for other settings")
    return f"{'; '.join(parts)} ({count_seeds(comparison)})"


def _gap(pair: Pair) -> str:
    return f"{pair.difference:.3f} ± {pair.half_width:.3f}"
