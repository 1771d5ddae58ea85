"""`python -m src.advise`: the best architecture and size of a synthetic ladder, for machines of different speed."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import advise
from src.cli.command import run_cli
from src.cli.compose import compose_config, register_schema
from src.config.checks import check_settings
from src.config.schema import CONF, AdviseConfig
from src.reporting import load_runs
from src.reporting.data.publish import publish_runs
from tests.ladders import loss_of, write_ladder


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ladder(tmp_path_factory.mktemp("ladder") / "outputs")


def run(ladder: Path, *more: str) -> int:
    return run_cli(lambda: advise.main([f"ladder=[{ladder}]", f"output_root={ladder.parents[1]}", *more]))


@pytest.mark.slow
def test_the_answer_is_that_of_the_laws(ladder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ladder, "machine=mac_48gb", "hours=24", "format=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["architecture"] for each in found["candidates"]] == ["mamba", "dense"]
    best = found["candidates"][0]
    assert best["is_best_in"] == pytest.approx(1, abs=0.05) and best["extrapolation"]["size"] > 1
    assert best["tokens"] == pytest.approx(24 * 3600 * best["tokens_per_second"])
    loss = best["bits_per_byte"]
    assert loss["low"] < loss["loss"] < loss["high"] and 0.8 < loss["loss"] < 1.3
    assert best["memory_bytes"] < 38_654_705_664 and best["state_bytes"] > 0


@pytest.mark.slow
def test_the_predicted_loss_is_that_of_the_law_inside_the_ladder(
    ladder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ladder, "hours=0.5", "format=json") == 0  # at the speed of the runs here
    found = json.loads(capsys.readouterr().out)
    for each in found["candidates"]:
        params = each["extrapolation"]["size"] * 2.22e6
        assert each["bits_per_byte"]["loss"] == pytest.approx(
            loss_of(each["architecture"], params, each["tokens"]), rel=0.02
        )


@pytest.mark.slow
def test_more_time_gives_larger_models_and_text_that_is_short_smaller_ones(
    ladder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def best(*settings: str) -> dict[str, float]:
        assert run(ladder, "machine=h100", "format=json", *settings) == 0
        return json.loads(capsys.readouterr().out)["candidates"][0]

    short, long = best("hours=0.01"), best("hours=10")
    assert long["total_params"] > short["total_params"] and long["tokens"] > short["tokens"]
    assert best("hours=10", "text_tokens=1_000_000")["tokens"] == 4_000_000


@pytest.mark.slow
def test_no_size_is_trained_on_far_more_tokens_for_each_parameter_than_the_ladder(
    ladder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ladder, "machine=h100", "hours=2", "format=json") == 0
    for each in json.loads(capsys.readouterr().out)["candidates"]:
        ratio = each["extrapolation"]["tokens"] / each["extrapolation"]["size"]
        assert ratio <= 1, "multiples of the ladder's largest tokens and size, whose ratio is its most tokens"
    assert run(ladder, "machine=h100", "hours=100000", "format=json") == 0
    best = json.loads(capsys.readouterr().out)["candidates"][0]
    assert best["size"] == "xlarge", "where every size has more, the largest"


def test_the_text_says_how_sure_it_is_and_what_follows(ladder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(ladder, "machine=mac_16gb", "hours=48") == 0
    out, err = capsys.readouterr()
    assert out.startswith("Train ") and " bits per byte (" in out and "on mac_16gb" in out
    assert "arXiv 2502.05317" in out and "40% of that is assumed" in out
    assert "Not sure: it is best in " in out and " seeds of mamba and dense at size micro, 20 tokens" in out
    assert "times the ladder's largest size" in out and "without the ladder's largest size" in out
    assert re.search(r"The losses of the ladder deviate from its laws by 0\.[1-3]%\.", out), "0.2% of noise"
    assert "Next: python -m src.train architecture=" in err and "dry_run=true" in err


@pytest.mark.parametrize(("hours", "size"), [(24, "micro"), (100, "mini")])
def test_what_would_make_it_surer_takes_no_longer_than_the_time_given(
    hours: int, size: str, ladder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(ladder, "machine=mac_16gb", f"hours={hours}", "format=json") == 0
    rung = json.loads(capsys.readouterr().out)["rung"]
    assert rung["size"] == size and rung["seconds"] <= 3600 * hours


def test_runs_of_other_text_or_contexts_are_no_part_of_a_ladder(
    ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_ladder(tmp_path / "outputs", seq_len=128)
    assert run_cli(lambda: advise.main([f"ladder=[{ladder},{other}]", "machine=h100"])) == 2
    assert "its runs differ in training.seq_len (128, 256)" in capsys.readouterr().err


def test_a_published_ladder_gives_the_same_advice(
    ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_runs(ladder, load_runs(ladder), tmp_path / "published")
    capsys.readouterr()
    answers: list[str] = []
    for folder in (ladder, tmp_path / "published"):
        assert run(folder, "machine=h100", "format=json") == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_without_a_ladder_it_is_the_published_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: advise.main(["machine=mac_48gb", "hours=1"])) == 0
    out, err = capsys.readouterr()
    assert "Ladder: the published one, of stories" in out
    assert "tokenizer.vocab_size=1024 schedule=wsd" in err and "docs/results/ladder-three-searches]" in err, (
        "the rates of most sizes"
    )


@pytest.fixture(scope="module")
def small_ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ladder(tmp_path_factory.mktemp("small") / "outputs", sizes=("pico", "300k", "nano"))


HELD_OUT = {"language": 40, "language_quarter": 10}


def test_predictions_can_be_stated_before_the_runs_and_are_then_checked(
    small_ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(seeds: int) -> dict[str, Any]:
        sweep = write_ladder(tmp_path / str(seeds), sizes=("2m",), budgets=HELD_OUT, seeds=seeds)
        assert run(small_ladder, f"check=[{sweep}]", "format=json") == 0
        return json.loads(capsys.readouterr().out)

    stated, found = check(0), check(3)
    assert len(stated["predictions"]) == 4 and stated["orders"]
    for before, after in zip(stated["predictions"], found["predictions"], strict=True):
        assert before["measured"] == [] and len(after["measured"]) == 3 and before["error"] is None
        assert {**before, "measured": 0, "error": 0} == {**after, "measured": 0, "error": 0}, "only the results are new"
        loss = loss_of(after["architecture"], after["active_non_embedding_params"], after["tokens"])
        assert after["bits_per_byte"]["loss"] == pytest.approx(loss, rel=0.02)
        assert after["error"] == pytest.approx(after["bits_per_byte"]["loss"] / np.mean(after["measured"]) - 1)
    assert [order["is_right"] for order in stated["orders"]] == [None] * len(stated["orders"])
    assert all(order["is_right"] and order["lower"] == "mamba" for order in found["orders"]), "mamba has the lower law"


def test_the_table_of_a_check_counts_what_holds(
    small_ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_ladder(tmp_path, sizes=("2m",), budgets=HELD_OUT)
    for summary in (sweep.parents[1] / "runs").glob("dense-*/summary.json"):
        content = json.loads(summary.read_text())
        content["stages"]["language"]["val_bits_per_byte"] *= 0.8  # dense is now better than any law of it says
        summary.write_text(json.dumps(content))
    assert run(small_ladder, f"check=[{sweep}]") == 0
    out = " ".join(capsys.readouterr().out.split())
    found = re.search(r"3 of 4 losses lie inside the interval; the largest error is (2\d\.\d)%\.", out)
    assert found and float(found[1]) == pytest.approx(25, abs=2), "1 / 0.8"
    assert "mamba below dense (wrong)" in out and " such orders are as measured." in out


def test_what_is_below_the_ladder_is_not_to_be_trusted(
    small_ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = write_ladder(tmp_path, sizes=("2m",), budgets={"language": 40, "language_sixteenth": 0.2}, seeds=1)
    assert run(small_ladder, f"check=[{sweep}]") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Below the ladder's smallest size or budget, where its laws are not to be trusted: 2m at 443k tokens." in out
    assert run(small_ladder, "machine=mac_16gb", "hours=0.0002") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Not sure: it is best in 100% of the draws, but below the ladder's smallest size or budget" in out
    assert out.count("extrapolates: ") == 2, "of each architecture"


def test_a_check_of_the_ladder_itself_or_of_another_context_is_refused(
    small_ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(small_ladder, f"check=[{small_ladder}]") == 2
    assert "no run of a size or budget that the ladder does not have" in capsys.readouterr().err
    other = write_ladder(tmp_path, seq_len=128, sizes=("2m",))
    assert run(small_ladder, f"check=[{other}]") == 2
    assert "its runs differ in training.seq_len (128, 256)" in capsys.readouterr().err


@pytest.mark.parametrize("machine", [path.stem for path in (CONF / "machine").glob("*.yaml") if path.stem != "here"])
def test_every_named_machine_has_memory_speed_and_a_source(machine: str) -> None:
    register_schema(AdviseConfig, "advise")
    found = compose_config(AdviseConfig, "advise", [f"machine={machine}"]).machine
    check_settings(found)
    assert found.name == machine and found.memory_bytes and found.peak_flops_per_second and found.source
    assert found.utilization == 0.4, "the documentation says so"


def test_without_a_speed_or_with_another_folder_it_is_one_line(
    ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_cli(lambda: advise.main([f"ladder=[{ladder}]", f"output_root={tmp_path}"])) == 2
    assert "machine=here: nothing was measured" in capsys.readouterr().err
    assert run_cli(lambda: advise.main([f"ladder=[{tmp_path}]"])) == 2
    assert capsys.readouterr().err.count("\n") == 1
