"""Power laws over sizes are recovered, with an interval of the stated coverage."""

import json
import random

import pytest

from src.reporting import draw, fit_laws, law_lines, load_runs, scaling_chart
from src.reporting.statistics.scaling_laws import _fit


def test_a_law_without_noise_is_recovered_exactly():
    x = [1e6, 1e7, 1e8, 1e9]
    law = _fit("dense", x, [3.0 * each**-0.07 for each in x])
    assert law.exponent == pytest.approx(0.07) and law.half_width == pytest.approx(0, abs=1e-9)
    assert law.at(1e10) == pytest.approx(3.0 * 1e10**-0.07)


def test_the_interval_has_the_stated_coverage():
    draw, x, inside = random.Random(0), [10.0**n for n in range(5, 10)], 0
    for _ in range(400):
        law = _fit("dense", x, [3.0 * each**-0.07 * 2 ** draw.gauss(0, 0.02) for each in x])
        inside += law.half_width is not None and abs(law.exponent - 0.07) <= law.half_width
    assert 0.92 <= inside / 400 <= 0.98


def test_laws_are_fitted_per_architecture_to_means_over_seeds(builder):
    for n, (size, level) in enumerate((("nano", 2.0), ("micro", 1.8), ("mini", 1.62))):
        for seed in range(2):
            for architecture in ("dense", "mamba"):
                run = builder.add(architecture, seed, size=size, level=level + 0.1 * (architecture == "mamba"))
                path = run / "summary.json"
                summary = json.loads(path.read_text())
                summary["accounting"]["active_non_embedding_params"] = 10 ** (6 + n)
                summary["stages"]["language"]["train_flops"] = 10 ** (12 + 2 * n)
                path.write_text(json.dumps(summary))
    builder.add("moe")
    runs = load_runs(builder.sweep)
    laws = fit_laws(runs)
    assert [law.architecture for law in laws] == ["dense", "mamba"], "one size makes no law"
    assert laws[0].x == [10**6, 10**7, 10**8] and 0.03 < laws[0].exponent < 0.06 and laws[0].half_width is not None
    assert "dense: bits per byte fall as x^-0.0" in law_lines(laws)[0]
    assert len(draw(scaling_chart(runs)).axes[0].lines) == 4
    assert [law.exponent for law in fit_laws(runs, "train_flops")] == pytest.approx([law.exponent / 2 for law in laws])


def test_missing_points_are_reported(builder):
    builder.add("dense")
    runs = load_runs(builder.sweep)
    assert law_lines(fit_laws(runs)) == ["no law: finished runs of at least two sizes are needed"]
    assert draw(scaling_chart(runs)).texts
