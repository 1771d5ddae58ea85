import json
import math
import random
from statistics import fmean, stdev

import pytest

from src.reporting import load_runs, verdict_lines, verdicts
from src.reporting.verdicts import compare_paired, holm, mean_and_half_width, ranked_pairs


def verdict(builder) -> str:
    return "\n".join(verdict_lines(load_runs(builder.sweep)))


def test_the_paired_test_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(2)
    for n in (3, 4, 9):
        first, second = ([draw.gauss(mean, 1) for _ in range(n)] for mean in (0.5, 0))
        result = stats.ttest_rel(first, second)
        found, interval = compare_paired(first, second), result.confidence_interval(0.95)
        assert found.p == pytest.approx(result.pvalue)
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx(tuple(interval))
        assert found.effect == pytest.approx(result.statistic / n**0.5)


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_without_a_true_difference_a_win_is_declared_in_5_of_100_at_most(n_seeds: int):
    """Four architectures alike, whose seeds share something: any win at all is a false one."""
    draw = random.Random(n_seeds)
    false = 0
    for _ in range(1000):
        shared = [draw.gauss(0, 1) for _ in range(n_seeds)]
        values = {name: [common + draw.gauss(0, 0.3) for common in shared] for name in "abcd"}
        false += any("beats" in line for line in verdicts._ranking_lines(values))
    assert 10 <= false <= 50 + 2 * (1000 * 0.05 * 0.95) ** 0.5, "no more, and not never: it would see nothing"


def test_the_interval_needs_three_values():
    assert mean_and_half_width([1.0, 3.0]) == (2.0, None)
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2.0 and half == pytest.approx(4.3027 / 3**0.5, abs=1e-3)


def test_the_interval_covers_the_mean_in_about_95_of_100():
    draw = random.Random(0)
    hits = 0
    for _ in range(400):
        mean, half = mean_and_half_width([draw.gauss(5, 2) for _ in range(3)])
        assert half is not None
        hits += abs(mean - 5) <= half
    assert 365 <= hits <= 395


def test_the_paired_test_sees_through_what_seeds_share():
    draw = random.Random(1)
    base = [draw.gauss(0, 1) for _ in range(5)]
    better = [value - 0.1 + draw.gauss(0, 0.01) for value in base]
    found = compare_paired(base, better)
    assert (
        found.p < 0.001 and 0.05 < found.mean < stdev(base) and found.mean == pytest.approx(fmean(base) - fmean(better))
    )
    assert compare_paired(base, base) == (0, 0, 0, 1) and compare_paired([1, 2, 3], [2, 3, 4])[1:] == (0, -math.inf, 0)


def test_holm_corrects_in_order():
    corrected = holm({("a", "b"): 0.01, ("a", "c"): 0.04, ("b", "c"): 0.03})
    assert corrected == pytest.approx({("a", "b"): 0.03, ("b", "c"): 0.06, ("a", "c"): 0.06})


def test_one_seed_gives_no_verdict(four):
    text = verdict(four)
    assert "no verdict: 1 seed; at least 3 are needed" in text
    assert "best" not in text and "Learning rates were not searched" in text


def test_two_seeds_give_no_verdict(builder):
    for seed in (0, 1):
        builder.add("dense", seed)
        builder.add("moe", seed)
    assert "no verdict: 2 seeds; at least 3 are needed" in verdict(builder)


def test_seeds_count_only_where_all_have_them(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed + 1)
    assert "no verdict: 2 seeds in common; at least 3" in verdict(builder)


def test_three_seeds_name_the_best_and_those_behind(builder):
    for seed in range(3):
        builder.add("dense", seed, level=2.2 + 0.003 * seed)
        builder.add("moe", seed, level=2.0)
    text = verdict(builder)
    assert "nano: language: best is moe 0." in text and "behind it dense 0." in text and "(3 seeds)" in text
    assert "nano: code: best is moe" in text and "Holm" in text
    (line,) = [line for line in text.splitlines() if line.startswith("nano: language: moe beats dense by 0.")]
    assert "bits per byte (3 seeds, p=" in line


def test_differences_within_the_noise_are_indistinguishable(builder):
    for seed, wobble in enumerate((0.05, -0.06, 0.02)):
        builder.add("dense", seed, level=2.2 + wobble)
        builder.add("moe", seed, level=2.2 - wobble)
        builder.add("mamba", seed, level=3.0 + wobble)
    text = verdict(builder)
    assert "indistinguishable at the top" in text and "behind the first mamba" in text and "best is" not in text
    assert "nano: language: 1 of 3 pairs is indistinguishable" in text
    pairs = ranked_pairs(load_runs(builder.sweep))
    assert [pair.is_apart for _, stage, pair in pairs if stage == "language"] == [False, True, True]


def test_differing_contracts_are_listed_and_not_ranked(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed)
        builder.add("mamba", seed, level=0.5, contract={"seq_len": 64})
    text = verdict(builder)
    assert "contracts differ" in text and "seq_len: 128 (" in text and "64 (mamba-" in text
    assert "nano, contract B: not ranked: no other architecture than mamba has this contract" in text
    assert "nano, contract A: language: best is moe" in text


def test_other_threads_leave_the_ranking_and_void_the_speed(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed, contract={"threads": 8})
    text = verdict(builder)
    assert "best is moe" in text and "speed, memory and time may not: runtime.threads: 2" in text


def test_jobs_that_shared_a_machine_say_nothing_of_speed(builder):
    builder.add("dense", contract={"host_shared": True})
    builder.add("moe", contract={"host_shared": True})
    assert "Jobs shared the machine" in verdict(builder)


def test_sizes_are_ranked_apart(builder):
    for seed in range(3):
        for size in ("nano", "micro"):
            builder.add("dense", seed, size=size)
            builder.add("moe", seed, size=size)
    text = verdict(builder)
    assert "nano: language: best" in text and "micro: code: best" in text and "contracts differ" not in text
    assert "different sizes are not ranked" in text


def test_runs_of_the_same_seed_are_no_replicates(builder):
    for index in range(3):
        builder.add("dense", run=f"dense-nano-full-s0-0000000{index}")
        builder.add("moe", index)
    assert "no verdict: an architecture has several runs of one seed" in verdict(builder)


def test_an_architecture_without_a_finished_run_is_named(four):
    four.ledger(next((four.root / "runs").glob("moe-*")).name, "failed", "boom")
    assert "nano: no finished run of moe: not ranked" in verdict(four)


def test_a_diverged_run_has_no_loss_and_gives_no_verdict(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed)
    builder.add("mamba", 0, summary={"stages": {}})
    builder.add("mamba", 1)
    builder.add("mamba", 2)
    assert "language: no verdict: some runs have no validation loss" in verdict(builder)


def test_nothing_finished(builder):
    builder.plan("dense-x", "dense")
    assert verdict(builder) == "no verdict: no run is finished"


def add_all(builder, marks, levels, **contract):
    """Add three seeds of dense and mamba with this contract."""
    for architecture, level in levels.items():
        for seed in range(3):
            run = f"{architecture}-nano-{marks}-s{seed}"
            builder.add(architecture, seed, run=run, level=level + 0.001 * seed, contract=contract)


def test_each_budget_and_matching_rule_has_a_verdict_of_its_own(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "f", {"dense": 2.2, "mamba": 2.0}, budget="flops", stages="language 150 steps of dense in FLOPs")
    add_all(builder, "m", {"dense": 2.0, "mamba": 2.0005}, match="total")
    lines = verdict(builder).split("\n")
    told = [line for line in lines if "code: best is" in line]
    assert [line.split(": ")[0] for line in told] == [
        "nano, match active, equal tokens",
        "nano, match active, equal FLOPs",
        "nano, match total, equal tokens",
    ]
    assert [line.split("code: ")[1][:13] for line in told] == ["best is dense", "best is mamba", "best is dense"]
    assert not any("contracts differ" in line for line in lines)


def test_what_differs_besides_the_rules_is_still_told(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "f", {"dense": 2.2, "mamba": 2.0}, budget="flops", seq_len=64)
    (line,) = [line for line in verdict(builder).split("\n") if "seq_len: 128" in line]
    assert "not comparable where contracts differ" in line and "the loss may be compared" not in line


def test_rules_that_differ_beside_threads_leave_the_loss_comparable(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "m", {"dense": 2.0, "mamba": 2.2}, match="total", threads=8)
    (line,) = [line for line in verdict(builder).split("\n") if "threads: " in line]
    assert "speed, memory and time may not: runtime.threads: 2" in line


def test_jobs_that_shared_a_machine_say_so_where_contracts_differ_too(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2}, host_shared=True)
    add_all(builder, "u", {"dense": 2.0, "mamba": 2.2}, host_shared=True, seq_len=64)
    assert "Jobs shared the machine" in verdict(builder)


def test_two_contracts_with_the_same_rules_keep_their_letters(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "u", {"dense": 2.0, "mamba": 2.2}, seq_len=64)
    lines = verdict(builder).split("\n")
    assert any(line.startswith("nano, contract B: code: best is dense") for line in lines)
    assert any("contracts differ" in line for line in lines)


TIME = {"budget": "time", "stages": "language 600 s, code 600 s"}


def equal_time(builder, seconds=(600, 630), **contract):
    add_all(builder, "w", {"dense": 2.0, "mamba": 2.2}, **TIME, **contract)
    for path in builder.root.glob("runs/*/summary.json"):
        summary = json.loads(path.read_text())
        time = seconds[summary["architecture"] == "mamba"]
        summary["final"]["tokens_per_second"] = summary["final"]["tokens"] / time
        path.write_text(json.dumps(summary))
    return verdict(builder).split("\n")


def test_equal_time_is_ranked_where_it_was_equal(builder):
    assert any("code: best is dense" in line for line in equal_time(builder))


def test_unequal_times_are_not_ranked_as_equal(builder):
    (line,) = [line for line in equal_time(builder, (600, 700)) if "no verdict" in line]
    assert "from 600 to 700 s" in line


def test_jobs_that_shared_the_machine_have_no_verdict_by_time(builder):
    (line,) = [line for line in equal_time(builder, host_shared=True) if "no verdict" in line]
    assert "shared the machine" in line


def test_other_threads_have_no_verdict_by_time(builder):
    add_all(builder, "x", {"moe": 2.0}, **TIME, threads=8)
    (line,) = [line for line in equal_time(builder) if "no verdict" in line]
    assert "other devices, threads or versions" in line


def test_trials_of_a_search_are_not_ranked(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2}, learning_rate_search="trial")
    (line,) = verdict(builder).split("\n")
    assert "trials of learning rates" in line
