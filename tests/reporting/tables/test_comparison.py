import math

import pytest

from src.reporting import comparison_text, load_runs, write_report
from src.reporting.data.runs import reference_losses
from src.reporting.tables import terminal
from src.reporting.tables.comparison import comparison_table, unfinished_lines
from src.reporting.tables.table import Mark
from src.reporting.tables.terminal import WIDTH


def names(table) -> list[str]:
    return [column.name for column in table.columns]


def test_the_table_has_one_row_per_run_and_the_references_below(four):
    table = comparison_table(load_runs(four.sweep))
    assert names(table) == [
        "architecture", "loss", "bits/byte", "loss", "bits/byte", "params", "tokens/s", "memory", "time",
    ]  # fmt: skip
    assert table.rows[-2] == ["dense", "2.200", "0.992", "2.000", "0.902", "1.00M", "9,000", "700 MB", "1m 08s"]
    assert [row[0] for row in table.rows] == ["moe", "hybrid", "dense", "mamba"], "sorted by result"
    assert table.marks == {(0, 2): Mark("best", "lowest of its column"), (0, 4): Mark("best", "lowest of its column")}
    assert table.references == [
        ["uniform", "8.318", "3.750", "8.318", "3.750", "", "", "", ""],
        ["unigram", "6.100", "2.750", "5.700", "2.570", "", "", "", ""],
        ["entropy floor", "1.375", "0.620", "-", "-", "", "", "", ""],
    ]


def test_speed_and_time_are_gray_where_jobs_shared_the_machine(builder):
    for name in ("dense", "moe"):
        builder.add(name, contract={"host_shared": True})
    table = comparison_table(load_runs(builder.sweep))
    gray = {(row, table.columns[column].name) for (row, column), mark in table.marks.items() if mark.kind == "gray"}
    assert gray == {(row, name) for row in (0, 1) for name in ("tokens/s", "time")}
    assert table.gray_note() == " Gray: tokens/s, time (jobs shared the machine)."
    page = write_report(builder.sweep)
    assert '<td class="gray" title="jobs shared the machine">9,000</td>' in page.read_text("utf-8")
    assert table.gray_note() in page.with_name("summary.md").read_text("utf-8")
    assert '"tokens_per_second"' not in page.read_text("utf-8") and not list(page.parent.glob("figures/*time.png"))


def test_a_dropped_column_keeps_the_marks_of_the_others(four):
    table = comparison_table(load_runs(four.sweep)).without("loss")
    assert set(table.marks) == {(0, 1), (0, 2)} and table.rows[0][1] == "0.947"


def test_the_entropy_floor_is_converted_to_nats_per_token():
    record = {"code/floor_bits_per_byte": 0.5, "code/bytes_per_token": 4.0, "code/unigram_loss": 6.0}
    found = reference_losses(record, "code")
    assert found["entropy floor"] == (pytest.approx(0.5 * math.log(2) * 4), 0.5)
    assert found["unigram"] == (6.0, pytest.approx(6 / math.log(2) / 4)) and "uniform" not in found
    assert reference_losses({}, "code") == {}


def test_seeds_are_averaged_with_an_interval(builder):
    for seed in range(3):
        builder.add("dense", seed)
        builder.add("moe", seed)
    builder.plan("dense-nano-full-s9-0000abcd", "dense", seed=9)
    text = comparison_text(load_runs(builder.sweep))
    table = comparison_table(load_runs(builder.sweep))
    assert [row[:4] for row in table.rows] == [
        ["moe", "3", "2.110", "0.951±0.011"],
        ["dense", "3", "2.210", "0.996±0.011"],
    ]
    assert "95% interval" in text and "pending: dense-nano-full-s9-0000abcd" in text


def test_two_seeds_are_averaged_without_an_interval(builder):
    builder.add("dense", 0)
    builder.add("dense", 1)
    assert comparison_table(load_runs(builder.sweep)).rows[0][:4] == ["dense", "2", "2.205", "0.994"]


def test_unfinished_runs_are_in_the_table_and_below_it(builder):
    builder.add("dense")
    builder.add("mamba", status="failed", error="RuntimeError: out of memory", stages=("language",))
    builder.add("moe", status="running", stages=())
    builder.add("hybrid", status="interrupted")
    builder.plan("moe-nano-full-s1-0000abcd", "moe", seed=1)
    runs = load_runs(builder.sweep)
    table = comparison_table(runs)
    status = {row[0] + row[1]: row[2] for row in table.rows}
    assert names(table)[:3] == ["architecture", "seed", "status"]
    assert status == {
        "dense0": "done",
        "mamba0": "failed",
        "moe0": "running",
        "moe1": "pending",
        "hybrid0": "interrupted",
    }
    assert unfinished_lines(runs) == [
        "mamba-nano-full-s0-0000abcd: failed: RuntimeError: out of memory",
        "hybrid-nano-full-s0-0000abcd: interrupted: no error recorded",
        "running: moe-nano-full-s0-0000abcd",
        "pending: moe-nano-full-s1-0000abcd",
    ]
    text = comparison_text(runs)
    assert text.index("entropy floor") < text.index("out of memory") < text.index("not ranked")


def test_runs_of_differing_contracts_are_shown_with_their_letter(builder):
    builder.add("dense")
    builder.add("moe", contract={"seq_len": 64})
    table = comparison_table(load_runs(builder.sweep))
    assert [row[:2] for row in table.rows] == [["dense", "A"], ["moe", "B"]]


def test_otherwise_equal_runs_show_their_names(builder):
    builder.add("dense", run="dense-nano-full-s0-aaaaaaaa")
    builder.add("dense", run="dense-nano-full-s0-bbbbbbbb")
    table = comparison_table(load_runs(builder.sweep))
    assert [row[1] for row in table.rows] == ["…aaaaaaaa", "…bbbbbbbb"]


def test_every_data_set_has_its_own_references(builder):
    builder.add("dense")
    builder.add("dense", seed=1, summary={"data": "local"})
    labels = [row[0] for row in comparison_table(load_runs(builder.sweep)).references]
    assert labels[:3] == ["uniform, embedded", "unigram, embedded", "entropy floor, embedded"]
    assert "unigram, local" in labels


def test_the_text_names_its_axis_and_fits_the_terminal(builder):
    for size in ("nano", "micro"):
        for seed in range(3):
            for architecture in ("dense", "mamba", "moe", "hybrid"):
                other = {"seq_len": 64} if (architecture, size) == ("moe", "micro") else {}
                builder.add(architecture, seed, size=size, contract=other)
    text = comparison_text(load_runs(builder.sweep))
    assert text.startswith(
        "Validation loss after equal tokens (614,400 a run, all stages): recipe modern, data embedded"
    )
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "Left out for width: loss." in text and "bits/byte" in text


@pytest.mark.parametrize("width", [80, 200])
def test_the_text_takes_the_width_of_the_terminal(builder, monkeypatch, width):
    for architecture in ("dense", "mamba", "moe", "hybrid"):
        for seed in range(3):
            builder.add(architecture, seed)
    monkeypatch.setattr(terminal, "terminal_width", lambda: width)
    lines = comparison_text(load_runs(builder.sweep)).splitlines()
    assert max(map(len, lines)) <= width
    assert any("Left out for width" in line for line in lines) is (width == 80)


def test_columns_too_wide_for_the_terminal_are_dropped_and_named(builder):
    for stages in (("language", "code"), ("language", "code", "shell", "prose", "verse")):
        builder.add(f"an-architecture-of-{len(stages)}-stages", stages=stages)
    text = comparison_text(load_runs(builder.sweep))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "Left out for width: loss, time." in text and "verse" in text


def test_a_table_without_results(builder):
    builder.plan("dense-nano-full-s0-0000abcd", "dense")
    text = comparison_text(load_runs(builder.sweep))
    assert "pending" in text and "no verdict: no run is finished" in text and "unigram" not in text


def test_a_heading_over_a_single_column_is_not_cut(builder):
    builder.add("dense", stages=("language", "language_sixteenth_of_the_budget"))
    text = comparison_text(load_runs(builder.sweep))
    heads, body = text.splitlines()[2:4]
    name = " language_sixteenth_of_the_budget "
    assert name in heads and body.startswith("architecture")
    assert body[: heads.index(name) + len(name)].endswith("bits/byte")
