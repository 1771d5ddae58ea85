"""A dry run prints the whole plan, including comparability warnings, and writes nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig
from src.model.cost.model_cost import model_cost
from src.model.size_matching import match_config
from src.runs.run_id import run_name
from src.runs.speed_estimate import Measured, Speed, estimate_speed, find_measured
from src.runtime.atomic_files import read_json
from src.runtime.records import write_record
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
    assert table_cells(out, "moe s1")[1:5] == ["new", "expert_d_ff=172", "3.43M", "796k"]
    assert "Total: 4 jobs, 0 of them done; to do: " in out and "time unknown" in out
    assert table_cells(out, "dense s0")[-1] == "1.0x" and "nothing was measured here" in out
    assert "data=embedded: not prepared yet; the command does it first" in out
    assert "nano: no verdict: 2 seeds; at least 3 are needed" in out


def test_unequal_settings_are_listed_with_their_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ("-m", "architecture=dense,mamba", "seed=0,1,2", f"output_root={tmp_path}")
    assert "contracts differ" not in dry_run(capsys, *sweep) and not list(tmp_path.iterdir())
    out = dry_run(capsys, *sweep, "training.seq_len=128,256")
    line = next(line for line in out.splitlines() if "contracts differ" in line)
    assert "seq_len: 128 (dense s0 seq_len=128, " in line
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
    assert [table_cells(out, f"dense s{seed}")[1] for seed in (0, 1)] == ["done", "new"]
    assert table_cells(out, "dense s1")[-1] == "30 s" and "1 of them done" in out and "about 30 s" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_text_of_the_user_that_is_not_prepared_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = dry_run(capsys, "data=local", f"output_root={tmp_path}")
    line = next(line for line in out.splitlines() if "not prepared in" in line)
    assert "Missing\n" in out and "first run python -m src.prepare data=local" in line


def test_a_disk_without_room_for_all_jobs_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the three jobs has room by itself."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=60_000_000))
    sweep = ("-m", "seed=0,1,2", f"output_root={tmp_path}")
    assert "all checkpoints take" in dry_run(capsys, *sweep)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1_000_000_000))
    assert "all checkpoints take" not in dry_run(capsys, *sweep)


@pytest.mark.parametrize("width", [80, 200])
def test_it_fits_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("src.sweep.dry_run.terminal_width", lambda: width)
    out = dry_run(capsys, "-m", "architecture=dense,mamba", "seed=0,1,2", f"output_root={tmp_path}")
    assert max(map(len, out.splitlines())) <= width and ("Left out for width" in out) is (width == 80)
    assert "mamba s2" in out and "time |" in out


def test_speeds_are_those_of_the_model_then_of_its_architecture_then_of_any() -> None:
    register_schema(TrainConfig, "train")
    config = compose_config(TrainConfig, "train", [])
    match = match_config(config)
    cost, context_len = model_cost(match.spec, 256), 256

    def measured(architecture: str, speed: float, **changes: Any) -> Measured:
        values = {"model": {}, "total_params": 1, "context_len": 256, "flops_per_token": 2 * cost.train_flops_per_token}
        return Measured(architecture, tokens_per_second=speed, **{**values, **changes})

    def speed(*known: Measured) -> Speed | None:
        return estimate_speed("dense", match.spec, cost, context_len, known)

    other, own = measured("moe", 10.0), measured("dense", 20.0)
    same = measured("dense", 30.0, model=match.spec.to_dict())
    benchmark = measured("dense", 40.0, model=None, total_params=cost.total_params)
    assert speed() is None
    assert speed(other) == Speed(20.0, False), "at its FLOP/s, with half the FLOPs"
    assert speed(own, other) == Speed(40.0, False)
    assert speed(same, own, other) == Speed(30.0, True)
    assert speed(benchmark, other) == Speed(40.0, True) and speed(benchmark, same) == Speed(30.0, True)
    assert speed(benchmark._replace(context_len=512)) == Speed(80.0, False)


def test_a_benchmark_gives_speeds(tmp_path: Path) -> None:
    point = {"model": "ours", "phase": "train", "context_len": 256, "tokens_per_second": 50.0, "flops_per_second": 1e9}
    others = [point | {"phase": "decode"}, point | {"model": "transformers"}, point | {"tokens_per_second": None}]
    series = [{"architecture": "moe", "size": "nano", "total_params": 7, "points": [point, *others]}]
    write_record(tmp_path / "benchmarks" / "b" / "benchmark.json", {"device": "cpu", "series": series})
    write_record(tmp_path / "benchmarks" / "c" / "benchmark.json", {"device": "cpu", "series": [{"points": 3}]})
    assert find_measured([tmp_path], "cpu") == [Measured("moe", None, 7, 256, 50.0, 2e7)]
    assert find_measured([tmp_path], "cuda") == []


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
