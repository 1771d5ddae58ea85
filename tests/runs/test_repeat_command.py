"""The command in a run's summary repeats the run elsewhere, bit for bit."""

import json
import shlex
from pathlib import Path

import pytest

from src.config.schema import TokenizerConfig
from src.data.preparation.prepare import prepare_data
from src.reporting import load_runs, write_report
from src.reporting.data.runs import load_evaluation, to_records
from src.runs.repeat_command import repeat_command
from src.runs.summary import read_summary
from tests.integration import tiny


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    """Two output roots that have the same text, prepared with the settings of conf/."""
    text, found = tiny.write_corpus(tmp_path / "text"), (tmp_path / "first", tmp_path / "again")
    for root in found:
        prepare_data(text, TokenizerConfig("bpe_4k", 512), root, log=lambda line: None)
    return found


def prepared(root: Path) -> Path:
    return next((root / "data").glob("*/manifest.json")).parent


def command_of(run: Path) -> list[str]:
    summary = read_summary(run)
    assert summary is not None and "command" in summary
    return shlex.split(summary["command"])


def weights_of(run: Path) -> dict[str, str]:
    return {stage: entry["weights"] for stage, entry in load_evaluation(run).items()}


@pytest.mark.slow
def test_the_command_with_a_searched_rate_gives_the_same_weights(roots: tuple[Path, Path], tmp_path: Path) -> None:
    trial = {"learning_rate": 0.0123, "bits_per_byte": 2.0}
    rate = {"learning_rate": 0.0123, "edge": None, "warmup_steps": 2, "trials": [trial]}
    search = {"size": "nano", "optimizer": "adamw", "text": "grid", "seeds": [1000], "rates": {"moe": rate}}
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "learning_rates.json").write_text(json.dumps({"format_version": 1, "searches": [search]}))
    root, again = roots
    given = ["architecture=moe", "optimizer.weight_decay=0.2", f"learning_rates=[{tmp_path / 'search'}]"]
    assert tiny.run(prepared(root), root, *given) == 0
    first = tiny.only_run(root)
    command = command_of(first)
    assert command[:3] == ["python", "-m", "src.train"]
    settings = {"architecture=moe", "optimizer.learning_rate=0.0123", "schedule.warmup_steps=2", "runtime.threads=1"}
    assert settings <= set(command) and not any("learning_rates" in word or "data.dir" in word for word in command)

    assert tiny.train_main([*command[3:], f"output_root={again}"]) == 0
    assert weights_of(tiny.only_run(again)) == weights_of(first) != {}, "SHA-256 of the weights of each stage"

    page = write_report(root).read_text(encoding="utf-8")
    assert "optimizer.learning_rate=0.0123" in page
    assert to_records(load_runs(root))[0]["status"] == "done"


@pytest.mark.slow
def test_the_command_of_a_run_that_starts_from_another(roots: tuple[Path, Path]) -> None:
    root, again = roots
    data = prepared(root)
    assert tiny.run(data, root, "architecture=moe") == 0
    start = tiny.only_run(root)
    assert tiny.run(data, root, f"init_from={start}", "stage=code", "training.max_steps=2") == 0
    (other,) = (run for run in (root / "runs").iterdir() if run.is_dir() and run != start)
    command = command_of(other)
    assert f"init_from={start}" in command and "architecture=moe" not in command
    assert tiny.train_main([*command[3:], f"output_root={again}"]) == 0
    assert weights_of(tiny.only_run(again)) == weights_of(other) != {}


@pytest.mark.parametrize("given", [[], ["runtime.attention=sdpa"]])
def test_a_kernel_of_attention_is_in_the_command_that_finds_a_run_if_it_was_given(
    data: Path, tmp_path: Path, given: list[str]
) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=1", *given) == 0
    run = tiny.only_run(tmp_path)
    found = repeat_command(run)
    assert found is not None and ("runtime.attention=sdpa" in found) is bool(given)
    assert not any("attention" in word for word in command_of(run)), "elsewhere it is chosen again"
