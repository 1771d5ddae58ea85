"""`dry_run=true` of the commands that train nothing: what would be done, and no file."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from src import benchmark, evaluate, prepare
from src.cli.command import run_cli
from src.config.formatting import show_time
from src.runtime.records import write_record
from tests.integration import tiny


@pytest.fixture
def text(tmp_path: Path) -> list[str]:
    """Settings of a local text of two stories and a script."""
    (tmp_path / "text").mkdir()
    for name in ("a.txt", "b.txt", "c.sh"):
        (tmp_path / "text" / name).write_text("once " * 200)
    corpora = [f"data.language.paths=[{tmp_path}/text/*.txt]", f"data.code.paths=[{tmp_path}/text/c.sh]"]
    return ["data=local", *corpora, f"output_root={tmp_path / 'out'}"]


def test_prepare(tmp_path: Path, text: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main([*text, "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert "language: 2 local files; up to 2 kB of text\ncode: 1 local file; up to 1 kB of text\n" in out
    assert "would be written" in out and not (tmp_path / "out").exists()
    assert "Time: not known before text was prepared here once" in out
    assert prepare.main([*text, "dry_run=true", "data.code.paths=[/nowhere]"]) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_prepare_names_missing_disk_and_repositories(
    tmp_path: Path, text: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    assert prepare.main([*text, "dry_run=true"]) == 0
    assert "Missing: disk for the work of about 6 kB" in capsys.readouterr().out
    assert prepare.main(["data=tinystories_bash", f"output_root={tmp_path / 'out'}", "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert "language: hub roneneldan/TinyStories; " in out and " repositories, fetched once into " in out


def test_prepare_estimates_its_time_by_the_last_preparation(
    tmp_path: Path, text: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.txt", "c.sh"):
        (tmp_path / "text" / name).write_text("".join(f"echo Once there were {n} mice.\n" for n in range(999)))
    small = [*text, "tokenizer.vocab_size=300"]
    assert prepare.main(small) == 0
    speed = tmp_path / "out" / "data" / ".speed.json"
    capsys.readouterr()
    assert prepare.main([*small, "dry_run=true"]) == 0
    assert "Time" not in capsys.readouterr().out  # it is prepared already
    write_record(speed, {"bytes_per_second": 64.0})
    n_bytes = sum(file.stat().st_size for file in (tmp_path / "text").iterdir())
    assert prepare.main([*small, "dry_run=true", "rerun=true"]) == 0
    assert f"Time: at most about {show_time(n_bytes / 64)} after fetching" in capsys.readouterr().out
    speed.write_text("{")  # damaged: as if nothing was measured
    assert prepare.main([*small, "dry_run=true", "rerun=true"]) == 0
    assert "Time: not known before" in capsys.readouterr().out
    assert prepare.main(["data=tinystories_bash", f"output_root={tmp_path / 'out'}", "dry_run=true"]) == 0
    assert "Time: not known" in capsys.readouterr().out


def test_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["architecture=dense,moe", "context_lens=[256,8388608]", "point_seconds=10", f"output_root={tmp_path}"]
    assert run_cli(lambda: benchmark.main([*arguments, "dry_run=true"])) == 0
    out = capsys.readouterr().out
    assert "| dense nano " in out and "| moe nano " in out and ", too much" in out
    assert "6 series: training, prefill, decoding of 2 models" in out and "at most about 2m 00s" in out
    assert not list(tmp_path.iterdir())


def test_evaluate(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=1", *tiny.EVALUATION) == 0
    run, before = tiny.only_run(tmp_path), sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert evaluate.main([f"run={run}", "dry_run=true"]) == 0
    out = capsys.readouterr().out
    assert "language: 4 windows of 32 tokens of language, 4 windows of 32 tokens of code, probes" in out
    assert evaluate.main([f"run={run}", "dry_run=true", *tiny.EVALUATION]) == 0
    assert "language: evaluated already; rerun=true does it again" in capsys.readouterr().out
    assert evaluate.main([f"run={run}", "dry_run=true", "rerun=true", *tiny.EVALUATION]) == 0
    assert "4 windows" in capsys.readouterr().out and sorted(tmp_path.rglob("*")) == before
