"""The figure of the verdict agrees with the verdict."""

from statistics import fmean

import numpy as np
import pytest

from src.reporting import draw, load_runs, verdict_lines, write_report
from src.reporting.plots.figure import in_lines, to_png
from src.reporting.plots.verdict import verdict_chart
from src.reporting.statistics.significance import mean_and_half_width
from src.reporting.statistics.verdicts import compare_headlines

SEEDS = {"dense": (2.50, 2.51, 2.52), "mamba": (2.31, 2.30, 2.32), "hybrid": (2.30, 2.305, 2.295)}


def add_seeds(builder, seeds, **changes):
    """Add a run for each level; the 0.01 that the builder adds per seed is subtracted here."""
    for architecture, levels in seeds.items():
        for seed, level in enumerate(levels):
            builder.add(architecture, seed, level=level - 0.01 * seed, **changes)
    return load_runs(builder.sweep)


def read_labels(panel) -> dict[str, str]:
    """Return the label beside each architecture in the first panel of a row."""
    names = [label.get_text() for label in panel.get_yticklabels()]
    return dict(zip(names, [text.get_text() for text in panel.texts], strict=True))


def drawn_seeds(panel) -> list[list[float]]:
    """Return the drawn seeds of each architecture: three points without a line for each."""
    points = [np.asarray(line.get_xdata()) for line in panel.lines if line.get_linestyle() == "None"]
    return [x.tolist() for x in points if len(x) == 3]


def test_seeds_means_intervals_and_labels_are_drawn(builder):
    runs = add_seeds(builder, SEEDS)
    figure = draw(verdict_chart(runs))
    language, code = figure.axes
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["language", "code"]
    stable = compare_headlines(runs)[0].comparison.stable
    assert read_labels(language) == {
        "dense": f"{fmean(stable['dense']):.3f} significantly worse",
        "mamba": f"{fmean(stable['mamba']):.3f} not significantly worse",
        "hybrid": f"{fmean(stable['hybrid']):.3f} lowest mean",
    }
    assert len(language.containers) == len(SEEDS)
    for container, seeds, name in zip(language.containers, drawn_seeds(language), stable, strict=True):
        mean, half = mean_and_half_width(stable[name])
        assert half is not None
        assert container[0].get_xdata() == pytest.approx([mean])
        ((start, end),) = container[2][0].get_segments()
        assert (start[0], end[0]) == pytest.approx((mean - half, mean + half))
        assert sorted(seeds) == pytest.approx(sorted(stable[name]))
    for panel in (language, code):
        assert [label.get_text() for label in panel.get_yticklabels()] == ["hybrid", "mamba", "dense"], "lowest first"


def test_a_best_architecture_is_called_best(builder):
    runs = add_seeds(builder, SEEDS | {"hybrid": (2.1, 2.105, 2.095)})
    assert "best is hybrid" in verdict_lines(runs)[0]
    shown = read_labels(draw(verdict_chart(runs)).axes[0])
    assert shown["hybrid"].endswith(" best")
    assert shown["mamba"].endswith(" significantly worse") and "not" not in shown["mamba"]


def test_an_unstable_architecture_shows_only_its_seeds(builder):
    runs = add_seeds(builder, SEEDS | {"moe": (2.4, 2.41, 3.4)})
    panel = draw(verdict_chart(runs)).axes[0]
    assert read_labels(panel)["moe"] == "unstable, not ranked"
    assert len(panel.containers) == 3
    assert len(drawn_seeds(panel)) == 4


def test_equivalence_is_labeled_within_the_given_margin(builder):
    runs = add_seeds(builder, SEEDS)
    assert read_labels(draw(verdict_chart(runs, margin=1.0)).axes[0])["mamba"].endswith(" equivalent")


def test_each_group_of_comparable_runs_has_a_row(builder):
    add_seeds(builder, SEEDS)
    runs = add_seeds(builder, {name: SEEDS[name] for name in ("dense", "mamba")}, size="micro", stages=("language",))
    figure = draw(verdict_chart(runs))
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["language, nano", "code, nano", "language, micro", ""]
    assert len(read_labels(figure.axes[0])) == 3 and len(read_labels(figure.axes[2])) == 2 and not figure.axes[3].axison
    assert to_png(figure).startswith(b"\x89PNG")


def test_no_verdict_gives_no_figure(four):
    runs = load_runs(four.sweep)
    assert verdict_chart(runs).is_empty
    assert "nothing measured" in draw(verdict_chart(runs)).texts[0].get_text()


def test_the_report_has_the_figure_first(builder):
    add_seeds(builder, SEEDS)
    folder = write_report(builder.sweep).parent
    assert (folder / "figures" / "verdict.png").read_bytes().startswith(b"\x89PNG")
    figures = (folder / "summary.md").read_text(encoding="utf-8").partition("## Figures")[2]
    assert figures.index("(figures/verdict.png)") < figures.index("(figures/loss_vs_tokens.png)")


def test_a_long_name_leaves_room_for_the_chart(builder) -> None:
    name = "hybrid pattern=[mamba,mlp,mamba,mlp,mamba,mlp,sliding_attention,mlp]"
    lines = in_lines(name).split("\n")
    assert "".join(lines) == name and max(map(len, lines)) <= 38 and len(lines) == 2
    assert in_lines("dense_qk_norm") == "dense_qk_norm"
    runs = add_seeds(builder, SEEDS)
    wide = draw(verdict_chart(runs))
    runs["architecture"] = runs["architecture"].replace("hybrid", name)
    figure = draw(verdict_chart(runs))
    for each in (wide, figure):
        to_png(each)
    plain, long = (each.axes[0].get_position().width * each.get_figwidth() for each in (wide, figure))
    assert long > 0.7 * plain > 1.5, "inches"
    assert figure.get_figheight() > wide.get_figheight()
