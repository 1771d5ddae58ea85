"""A dry run prints the whole plan, including comparability warnings, and writes nothing."""

from pathlib import Path

import pytest

from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig
from src.runs.run_id import run_name
from src.runtime.atomic_files import read_json
from tests.integration import tiny

ONE_STEP = ("training.max_steps=1", "stage.stages.language.prompts=[]")


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert tiny.train_main([*arguments, "dry_run=true"]) == 0
    return capsys.readouterr().out


def table_cells(text: str, name: str) -> list[str]:
    row = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_nothing_is_prepared_started_or_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "out"
    out = dry_run(capsys, "-m", "architecture=dense,moe", "seed=0,1", f"output_root={root}")
    assert not root.exists()
    assert table_cells(out, "architecture=moe seed=1")[1:5] == ["new", "expert_d_ff=172", "3.43M", "796k"]
    assert "Total: 4 jobs, 0 of them done; to do: " in out and "time unknown" in out
    assert "nano: no verdict: 2 seeds; at least 3 are needed" in out


def test_unequal_settings_are_listed_with_their_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("-m", "architecture=dense,mamba", "seed=0,1,2", f"output_root={tmp_path}")
    assert "contracts differ" not in dry_run(capsys, *sweep) and not list(tmp_path.iterdir())
    out = dry_run(capsys, *sweep, "training.seq_len=128,256")
    line = next(line for line in out.splitlines() if "contracts differ" in line)
    assert "seq_len: 128 (architecture=dense seed=0 training.seq_len=128, " in line
    other = dry_run(capsys, *sweep, "data.seed=0,1")
    assert "not prepared yet" in other and "contracts differ" in other


def test_finished_runs_give_the_time_estimate_and_are_not_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(data, tmp_path, *ONE_STEP) == 0
    folder = tiny.only_run(tmp_path)
    final = read_json(folder / "summary.json")["final"]
    tiny.change_summary(folder, final=final | {"tokens_per_second": final["tokens"] / 30})
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    out = dry_run(capsys, "-m", *tiny.command_line(data, tmp_path, *ONE_STEP, "seed=0,1"))
    assert [table_cells(out, f"seed={seed}")[1] for seed in (0, 1)] == ["done", "new"]
    assert table_cells(out, "seed=1")[-1] == "30 s" and "1 of them done" in out and "about 30 s" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_raises_the_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, line in {
        ("-m", "seed=0,0"): "two jobs of the sweep are the same run",
        ("training.micro_batch_size=3",): "must divide training.global_batch_size=8",
    }.items():
        assert tiny.train_main([*arguments, f"output_root={tmp_path}", "dry_run=true"]) == 2
        assert line in capsys.readouterr().err


def test_a_dry_run_has_the_name_of_the_run_itself() -> None:
    """The key does not change the result."""
    register_schema(TrainConfig, "train")
    names = {run_name(compose_config(TrainConfig, "train", [f"dry_run={dry}"]), "f", None) for dry in (True, False)}
    assert len(names) == 1


def test_verdict_settings_do_not_change_the_name_of_a_run() -> None:
    register_schema(TrainConfig, "train")
    names = {
        run_name(compose_config(TrainConfig, "train", overrides), "f", None)
        for overrides in ([], ["verdict.margin=0.02"])
    }
    assert len(names) == 1
