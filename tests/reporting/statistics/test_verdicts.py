import json

from src.config.schema import ReportConfig, VerdictConfig
from src.report import report
from src.reporting import comparison_text, load_runs, verdict_lines
from src.reporting.statistics.verdicts import compare_headlines


def verdict(builder, margin: float | None = None) -> str:
    return "\n".join(verdict_lines(load_runs(builder.sweep), margin))


def test_one_seed_gives_no_verdict(four):
    text = verdict(four)
    assert "no verdict: 1 seed; at least 3 are needed" in text
    assert "best" not in text and "Learning rates were not searched" in text


def add_draws(builder, architecture: str, level: float, texts: str) -> None:
    """Add a run for each seed, which has drawn the text of this letter."""
    for seed, text in enumerate(texts):
        contract = {"data_draws": "each_seed of 0123", "data_hash": text * 64}
        builder.add(architecture, seed, level=level, contract=contract)


def test_seeds_with_their_own_draw_of_the_text_are_compared(builder):
    add_draws(builder, "dense", 2.2, "abc")
    add_draws(builder, "moe", 2.0, "abc")
    assert "best is moe" in verdict(builder) and "Each seed has its own draw of the text" in verdict(builder)


def test_seeds_that_drew_other_text_than_another_architecture_give_no_verdict(builder):
    add_draws(builder, "dense", 2.2, "abc")
    add_draws(builder, "moe", 2.0, "abd")
    assert "no verdict: runs of one seed have different text" in verdict(builder)
    assert "best is" not in verdict(builder)


def test_two_seeds_give_no_verdict(builder):
    for seed in (0, 1):
        builder.add("dense", seed)
        builder.add("moe", seed)
    assert "no verdict: 2 seeds; at least 3 are needed" in verdict(builder)


def test_different_numbers_of_different_seeds_are_accepted(builder):
    for seed in range(3):
        builder.add("dense", seed, level=2.2)
        builder.add("moe", seed + 1, level=2.0)
    builder.add("dense", 9, level=2.1)
    assert "best is moe" in verdict(builder) and "(3 to 4 seeds)" in verdict(builder)


def test_the_architecture_with_too_few_seeds_is_named(builder):
    for seed in range(3):
        builder.add("dense", seed)
    builder.add("moe", 0)
    assert "no verdict: 1 seed of moe; at least 3 are needed" in verdict(builder)


def add_levels(builder, levels: dict[str, tuple[float, ...]]) -> None:
    """Add runs with these losses; the amount that `builder.add` adds per seed is subtracted."""
    for architecture, values in levels.items():
        for seed, value in enumerate(values):
            builder.add(architecture, seed, level=value - 0.01 * seed)


def test_three_seeds_name_the_best_and_those_significantly_worse(builder):
    add_levels(builder, {"dense": (2.2, 2.213, 2.226), "moe": (2.0, 2.01, 2.02)})
    text = verdict(builder)
    assert "nano: language: best is moe 0.906 (sd 0.005); significantly worse dense 0.998 (sd 0.006) (3 seeds)" in text
    assert "nano: code: best is moe" in text and "corrected for 2 headlines" in text and "Holm" not in text


def test_differences_within_the_noise_name_no_best_but_the_seeds_needed(builder):
    noisy = {"dense": (2.25, 2.14, 2.22), "moe": (2.15, 2.26, 2.18), "mamba": (3.05, 2.94, 3.02)}
    add_levels(builder, noisy)
    text = verdict(builder)
    assert "language: no significant best; lowest mean moe" in text or "lowest mean dense" in text
    assert "not significantly worse" in text and "; significantly worse mamba" in text and "best is" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("nano: language: no significant difference")]
    assert "would decide a difference of 0.02 bits per byte (power 0.8): " in line and int(line.split()[-1]) > 10
    pairs = compare_headlines(load_runs(builder.sweep))[0].comparison.pairs
    assert [pair.is_significant for pair in pairs] == [False, True, True]


def test_a_noisy_worse_mean_is_not_placed_above_a_steady_better_one(builder):
    """Only the noise of the last keeps it from being significantly worse."""
    levels = {"moe": 2.0, "dense": 2.5, "hybrid": 3.0}
    steady = {name: tuple(level + step for step in (0, 0.01, 0.02, 0.03)) for name, level in levels.items()}
    add_levels(builder, {**steady, "mamba": (2.1, 2.4, 2.7, 3.0)})
    text = verdict(builder)
    line = next(line for line in text.splitlines() if line.startswith("nano: language: no significant best"))
    first, second, third = line.split("; ")[1:4]
    assert first.startswith("lowest mean moe") and second.startswith("significantly worse dense")
    assert third.startswith("worse in the mean, but too noisy to be significantly worse mamba")


def test_unstable_architectures_are_named_with_their_seeds_and_not_averaged(builder):
    names = {"dense": 2.2, "moe": 2.0, "hybrid": 2.4}
    add_levels(builder, {name: tuple(level + step for step in (0, 0.01, 0.02)) for name, level in names.items()})
    for seed, level in enumerate((1.9, 1.91, 2.9)):
        builder.add("mamba", seed, level=level - 0.01 * seed)
    text = verdict(builder)
    assert "language: best of the stable is moe" in text
    assert "unstable at this learning rate, so neither averaged nor ranked: mamba (0.857, 0.861, 1.307)" in text
    row = next(line for line in comparison_text(load_runs(builder.sweep)).splitlines() if line.startswith("mamba"))
    assert "unstable" in row and "0.857–1.307" in row and "±" not in row


def test_equivalence_needs_a_margin_from_the_user(builder):
    close = {name: tuple(2.0 + 0.001 * step for step in steps) for name, steps in (("a", (0, 1, 2)), ("b", (1, 0, 2)))}
    add_levels(builder, close)
    assert "equivalent" not in verdict(builder)
    lines = verdict(builder, 0.02).splitlines()
    assert report(ReportConfig(dir=str(builder.sweep), verdict=VerdictConfig(margin=0.02))) == 0
    assert "within ±0.02 bits per byte" in (builder.sweep / "report" / "report.html").read_text("utf-8")
    assert any("language: equivalent to a within 0.02 bits per byte: b" in line for line in lines)
    assert not any("more seeds" in line for line in lines)
    (line,) = [line for line in verdict(builder, 0.0001).splitlines() if "language: no significant difference" in line]
    assert "a difference of 0.0001 bits per byte" in line


def test_differing_contracts_are_listed_and_not_ranked(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed)
        builder.add("mamba", seed, level=0.5, contract={"seq_len": 64})
    text = verdict(builder)
    assert "contracts differ" in text and "seq_len: 128 (" in text and "64 (mamba-" in text
    assert "nano, contract B: not ranked: no other architecture than mamba has this contract" in text
    assert "nano, contract A: language: best is moe" in text


def test_other_threads_keep_the_ranking_and_invalidate_speed(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed, contract={"threads": 8})
    text = verdict(builder)
    assert "best is moe" in text and "speed, memory and time may not: runtime.threads: 2" in text


def test_concurrent_jobs_invalidate_speed(builder):
    builder.add("dense", contract={"host_shared": True})
    builder.add("moe", contract={"host_shared": True})
    assert "Jobs shared the machine" in verdict(builder)


def test_sizes_are_ranked_separately(builder):
    for seed in range(3):
        for size in ("nano", "micro"):
            builder.add("dense", seed, size=size)
            builder.add("moe", seed, size=size)
    text = verdict(builder)
    assert "nano: language: best" in text and "micro: code: best" in text and "contracts differ" not in text
    assert "different sizes are not ranked" in text


def test_runs_of_the_same_seed_are_not_replicates(builder):
    for index in range(3):
        builder.add("dense", run=f"dense-nano-full-s0-0000000{index}")
        builder.add("moe", index)
    assert "no verdict: an architecture has several runs of one seed" in verdict(builder)


def test_an_architecture_without_a_finished_run_is_named(four):
    four.job_record(next((four.root / "runs").glob("moe-*")).name, "failed", "boom")
    assert "nano: no finished run of moe: not ranked" in verdict(four)


def test_a_diverged_run_has_no_loss_and_gives_no_verdict(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed)
    builder.add("mamba", 0, summary={"stages": {}})
    builder.add("mamba", 1)
    builder.add("mamba", 2)
    assert "language: no verdict: some runs have no validation loss" in verdict(builder)


def test_unfinished_runs_give_no_verdict(builder):
    builder.plan("dense-x", "dense")
    assert verdict(builder) == "no verdict: no run is finished"


def add_all(builder, marks, levels, **contract):
    """Add three seeds of dense and mamba with this contract."""
    for architecture, level in levels.items():
        for seed in range(3):
            run = f"{architecture}-nano-{marks}-s{seed}"
            builder.add(architecture, seed, run=run, level=level + 0.001 * seed, contract=contract)


def test_each_budget_and_matching_rule_has_its_own_verdict(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "f", {"dense": 2.2, "mamba": 2.0}, budget="flops", stages="language 150 steps of dense in FLOPs")
    add_all(builder, "m", {"dense": 2.0, "mamba": 2.1}, match="total")
    lines = verdict(builder).split("\n")
    best_lines = [line for line in lines if "code: best is" in line]
    assert [line.split(": ")[0] for line in best_lines] == [
        "nano, match active, equal tokens",
        "nano, match active, equal FLOPs",
        "nano, match total, equal tokens",
    ]
    assert [line.split("code: ")[1][:13] for line in best_lines] == ["best is dense", "best is mamba", "best is dense"]
    assert not any("contracts differ" in line for line in lines)


def test_differences_besides_the_rules_are_reported(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "f", {"dense": 2.2, "mamba": 2.0}, budget="flops", seq_len=64)
    (line,) = [line for line in verdict(builder).split("\n") if "seq_len: 128" in line]
    assert "not comparable where contracts differ" in line and "the loss may be compared" not in line


def test_differing_rules_and_threads_keep_losses_comparable(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "m", {"dense": 2.0, "mamba": 2.2}, match="total", threads=8)
    (line,) = [line for line in verdict(builder).split("\n") if "threads: " in line]
    assert "speed, memory and time may not: runtime.threads: 2" in line


def test_concurrent_jobs_are_reported_with_differing_contracts(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2}, host_shared=True)
    add_all(builder, "u", {"dense": 2.0, "mamba": 2.2}, host_shared=True, seq_len=64)
    assert "Jobs shared the machine" in verdict(builder)


def test_contracts_with_the_same_rules_keep_their_letters(builder):
    add_all(builder, "t", {"dense": 2.0, "mamba": 2.2})
    add_all(builder, "u", {"dense": 2.0, "mamba": 2.2}, seq_len=64)
    lines = verdict(builder).split("\n")
    assert any(line.startswith("nano, contract B: code: best is dense") for line in lines)
    assert any("contracts differ" in line for line in lines)


TIME = {"budget": "time", "stages": "language 600 s, code 600 s"}


def equal_time_runs(builder, seconds=(600, 630), **contract):
    add_all(builder, "w", {"dense": 2.0, "mamba": 2.2}, **TIME, **contract)
    paths = [*builder.root.glob("runs/*/summary.json")]
    for path in paths:
        summary = json.loads(path.read_text())
        time = seconds[summary["architecture"] == "mamba"]
        summary["final"]["tokens_per_second"] = summary["final"]["tokens"] / time
        path.write_text(json.dumps(summary))
    return paths


def equal_time(builder, seconds=(600, 630), **contract):
    equal_time_runs(builder, seconds, **contract)
    return verdict(builder).split("\n")


def test_equal_times_are_ranked(builder):
    assert any("code: best is dense" in line for line in equal_time(builder))


def test_unequal_times_are_not_ranked_as_equal(builder):
    (line,) = [line for line in equal_time(builder, (600, 700)) if "no verdict" in line]
    assert "from 600 to 700 s" in line


def test_a_machine_that_was_not_idle_has_no_verdict_by_time(builder):
    for path in equal_time_runs(builder):
        summary = json.loads(path.read_text())
        if summary["architecture"] == "mamba" and summary["seed"] == 1:  # as many steps fewer as they take longer
            for key in ("tokens", "tokens_per_second"):
                summary["final"][key] *= 0.7
        path.write_text(json.dumps(summary))
    (line,) = [line for line in verdict(builder).split("\n") if "no verdict" in line]
    assert "mamba trained at" in line and "the machine was not idle" in line


def test_concurrent_jobs_have_no_verdict_by_time(builder):
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
