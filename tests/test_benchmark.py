"""The benchmark command: its files, its output and its errors."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from src import benchmark
from src.cli.command import run_cli
from src.cli.compose import compose_config, register_schema
from src.config.schema import BenchmarkConfig
from src.profiling import baselines
from src.profiling.engines import ENGINES
from src.reporting.plots.benchmark import benchmark_charts, describe, newest_benchmark

SMALL = (
    "size.d_model=64 size.n_layers=2 tokenizer.vocab_size=260 training.seq_len=32 training.global_batch_size=2 "
    "training.micro_batch_size=2 match=none runtime.device=cpu runtime.threads=1"
).split()


def composed(*overrides: str) -> BenchmarkConfig:
    register_schema(BenchmarkConfig, "benchmark")
    return compose_config(BenchmarkConfig, "benchmark", [*SMALL, *overrides])


def run(*arguments: str) -> int:
    return run_cli(lambda: benchmark.main([*SMALL, *arguments]))


@pytest.mark.slow
def test_the_benchmark_writes_tables_points_and_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("architecture=dense,mamba", "context_lens=[16,32]", "peers=true", f"output_root={tmp_path}")
    assert run(*arguments) == 0
    out = capsys.readouterr().out
    (folder,) = (tmp_path / "benchmarks").iterdir()
    assert out.splitlines()[-1] == f"Benchmark: {folder}"
    assert {file.name for file in folder.iterdir()} == {
        "benchmark.json", "benchmark.md", "points.csv", "speed.png", "memory.png",
    }  # fmt: skip
    found = json.loads((folder / "benchmark.json").read_text())
    assert found["ratios_at"] == 32
    assert found["ratios"].keys() == {"dense/hf_llama", "mamba/hf_mamba2", "mamba/mambapy"}
    with (folder / "points.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    rows = [row for row in rows if row["model"] not in ENGINES]  # which may not be installed
    assert len(rows) == 2 * 3 * (2 + 3)
    ours = next(row for row in rows if (row["architecture"], row["model"], row["phase"]) == ("mamba", "ours", "train"))
    assert f"{float(ours['tokens_per_second']):,.0f}" in out and "| mamba " in out and "  hf_mamba2" in out
    assert "timed once" not in out
    next(point for point in found["series"][1]["points"] if point["model"] == "mambapy")["turns"] = 1
    assert "mamba nano: training of mambapy at 16 is slow: timed once" in describe(found)
    assert "is slow here" not in out
    for point in found["series"][0]["points"][:2]:
        point["shrunk_from"] = 64
    assert "dense nano: training at 16 is slow here: steps of 64 tokens instead of 64" in describe(found)
    charts = benchmark_charts(newest_benchmark(tmp_path / "sweeps" / "s"))
    assert [list(chart.files) for chart in charts] == [["benchmark_speed"], ["benchmark_memory"]]
    assert newest_benchmark(tmp_path.parent / "elsewhere" / "sweeps" / "s") is None


@pytest.mark.slow
def test_json_output_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("architecture=dense", "context_lens=[16]", "format=json", f"output_root={tmp_path}") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["series"][0]["points"][0]["phase"] == "train" and found["ratios"] == {}
    assert run("architecture=dense", "profile=true", "format=json", f"output_root={tmp_path}") == 0
    (found,) = json.loads(capsys.readouterr().out)["profiles"]
    assert found["parts"].keys() >= {"attention", "mlp"}
    assert found["decoding"]["token_s"] < found["step_s"] and not found["decoding"]["waits"]
    assert 0 < found["decoding"]["operator_calls"] < found["operator_calls"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("context_lens=[]", "context_lens=[]: give lengths in tokens, as in [256,1024]"),
        ("context_lens=[0]", "context_lens=0: must be greater than 0"),
        ("training.micro_batch_size=auto", "training.micro_batch_size=auto: a benchmark needs a number"),
        ("point_seconds=0", "point_seconds=0.0: must be greater than 0"),
        ("format=xml", "format=xml: must be one of text, json"),
        ("architecture=hybrid peers=true recipe=classic", "norm=layernorm: HybridForCausalLM needs norm=rmsnorm"),
    ],
)
def test_wrong_input_is_one_line(argument: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*argument.split(), f"output_root={tmp_path}") == 2
    err = capsys.readouterr().err
    assert line in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_missing_library_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(baselines.importlib.util, "find_spec", lambda name: None)
    assert run("peers=true") == 2
    assert "transformers and mambapy not installed; pip install" in capsys.readouterr().err
