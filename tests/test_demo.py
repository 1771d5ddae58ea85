"""`python -m src.demo` ends with an answer, texts and the next commands, and a repetition finds its runs."""

from pathlib import Path

import pytest

from src import demo
from src.cli.command import run_cli
from src.runtime.atomic_files import read_json
from src.sweep import time_budget
from src.sweep.time_budget import Speed
from tests.integration import tiny

FAST = [
    *("architecture=dense,mamba", "stage=language", "size.d_model=32", "training.seq_len=32", "runtime.threads=1"),
    *("training.eval_sequences=2", "training.test_sequences=8", "samples.max_new_tokens=8", "tokenizer.vocab_size=300"),
    *("runtime.device=cpu", "launcher=serial", "sweep.live=false"),
]


SPEED = Speed(1.0, {"dense": 1.0, "mamba": 1.0})


@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.write_corpus(tmp_path / "text")
    monkeypatch.setattr(
        time_budget, "measure_speed", lambda configs: Speed(1.0, dict.fromkeys(("dense", "mamba"), 1.0))
    )
    argv = [f"data={tmp_path / 'text' / 'stories.txt'}", f"output_root={tmp_path / 'out'}", *FAST]
    assert run_cli(lambda: demo.main(argv)) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out.index("measuring the speed") < out.index("language, bits per byte") < out.index("Texts after stage")
    answer, commands = out.split("\nNext\n")
    assert "(3 seeds)" in answer[answer.index("Texts after stage") :]
    assert "file:///" in commands and "data=PATH" in commands and "size=nano minutes=60" in commands
    (chosen,) = (tmp_path / "out" / "demos").iterdir()
    assert read_json(chosen)["max_tokens"] == 32 * 8 * 32
    assert run_cli(lambda: demo.main(argv)) == 0
    again = capsys.readouterr().out
    assert "as chosen before" in again and "Stage language" not in again
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 6


@pytest.mark.slow
def test_a_dry_run_starts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        time_budget, "measure_speed", lambda configs: Speed(1.0, dict.fromkeys(("dense", "mamba"), 1.0))
    )
    assert run_cli(lambda: demo.main([f"output_root={tmp_path / 'out'}", "dry_run=true", *FAST])) == 0
    out = capsys.readouterr().out
    assert "6 runs" in out and "mamba s2" in out and "Nothing was started" in out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [("minutes=0", "minutes=0"), ("minutes=soon", "minutes=soon"), ("size=huge", "size=huge: no such choice")],
)
def test_invalid_settings_are_one_line(setting: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: demo.main([setting])) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
