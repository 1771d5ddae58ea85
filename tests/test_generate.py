"""Text from a run: prompts are used unchanged, the cache does not change the text, and a closed pipe is no error."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from src import generate
from src.cli.command import run_cli
from src.config.schema import ROOT
from tests.integration import tiny

PROMPTS = [
    "#!/bin/bash", "a, b", "f() {", "${HOME}", "$(ls)", "~/x", "[x]", "{a: 1}", "a=b", "'", '"', "it's \"so\"",
    "\\n \\ \\\\", "line\nbreak\n", "\ttab ", "naïve 🐢 日本", "--flag", "x:y;z|w", "<|endoftext|>", "null", "1,2", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, root = tiny.data_dir(tmp_path_factory), tmp_path_factory.mktemp("generate")
    more = ("architecture=hybrid", "training.max_steps=30", "optimizer.learning_rate=0.01", "training.log_every=10")
    assert tiny.run(data, root, *more) == 0
    return tiny.only_run(root)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with 40 learned positions."""
    data, root = tiny.data_dir(tmp_path_factory), tmp_path_factory.mktemp("learned")
    assert (
        tiny.run(
            data,
            root,
            "recipe=classic",
            "recipe.max_seq_len=40",
            "stage.stages.language.prompts=[]",
            "training.max_steps=1",
        )
        == 0
    )
    return tiny.only_run(root)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def text(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    status = run_cli(lambda: generate.main([*arguments, "threads=1", "device=cpu"]))
    said = capsys.readouterr()
    assert status == 0 and said.err.startswith("Next: python -m src.export ") and said.err.count("\n") == 1
    return said.out


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_is_used_unchanged(prompt: str, finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = text([f"run={finished}", f"prompt={prompt}", "max_new_tokens=3"], capsys)
    assert out.startswith(prompt) and out.endswith("\n")


@pytest.mark.parametrize("prompt", ["#!/bin/bash\nset -e\n", "a, b = ${c} 🐢", "a\r\nb", ""])
def test_a_prompt_is_read_from_a_file_or_standard_input(
    prompt: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a, prompt (1).sh"
    file.write_bytes(prompt.encode())
    common = [f"run={finished}", "max_new_tokens=5", "seed=3"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(prompt.encode())))
    piped = text(common, capsys)
    monkeypatch.setattr(sys, "stdin", Terminal("never read"))
    assert piped == text([*common, f"prompt={prompt}"], capsys) == text([*common, f"prompt_file={file}"], capsys)
    if not prompt:
        assert piped == text(common, capsys)  # on a terminal the prompt is empty


@pytest.mark.parametrize("temperature", ["temperature=0", "temperature=0.9"])
def test_the_cache_does_not_change_the_text(
    temperature: str, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [f"run={finished}", "prompt=Once upon a time, Lily", "max_new_tokens=40", temperature]
    assert text(common, capsys) == text([*common, "cache=false"], capsys)


def test_the_seed_determines_the_text(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [f"run={finished}", "prompt=Once", "max_new_tokens=20", "temperature=1", "top_k=0"]
    first = text([*common, "seed=1"], capsys)
    assert first == text([*common, "seed=1"], capsys) != text([*common, "seed=2"], capsys)


def test_max_new_tokens_is_a_limit(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [f"run={finished}", "prompt=Once", "temperature=0"]
    short, long = (text([*common, f"max_new_tokens={n}"], capsys).rstrip("\n") for n in (2, 12))
    assert long.startswith(short) and len(long) > len(short)


def test_generate_accepts_a_checkpoint_folder(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["prompt=Once", "max_new_tokens=5", "temperature=0"]
    best = finished / "checkpoints" / "language" / "best"
    expected = text([f"run={finished}", *common], capsys)
    assert text([f"run={best}", *common], capsys) == expected
    for folder in (finished, best):
        monkeypatch.chdir(folder)
        assert text(["run=.", *common], capsys) == expected


def test_learned_positions_limit_the_text(learned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"run={learned}", "prompt=", "max_new_tokens=40"]
    assert run_cli(lambda: generate.main(arguments)) == 2
    assert capsys.readouterr().err == (
        "error: max_new_tokens=40: with the prompt's 1 tokens, more than the 40 learned positions of this model; "
        "at most 39\n"
    )
    assert text([*arguments[:2], "max_new_tokens=39"], capsys)


def test_a_prompt_that_is_not_utf8_is_a_one_line_error(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: generate.main([f"run={finished}", "prompt=\udcff", "max_new_tokens=1"])) == 2
    assert "not valid UTF-8" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_streams_and_ends_quietly_on_a_closed_pipe(finished: Path) -> None:
    """`head -c 10` closes the pipe early: no traceback, and the usual exit status of a closed pipe."""
    command = (
        f"{sys.executable} -m src.generate run='{finished}' threads=1 max_new_tokens=3000 temperature=1 | head -c 10"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"],
        cwd=ROOT,
        capture_output=True,
        input=b"Once upon a time",
        env={**os.environ, "PYTHONUNBUFFERED": ""},
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (141, b"Once upon ", b"")


def test_control_characters_are_replaced_on_a_terminal_only(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "a\x1b]0;title\x07\x1b[2J\x08\x9b31m\ttab\nline"
    arguments = [f"run={finished}", f"prompt={prompt}", "max_new_tokens=2"]
    piped = text(arguments, capsys)
    assert piped.startswith(prompt)
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    assert run_cli(lambda: generate.main([*arguments, "threads=1", "device=cpu"])) == 0
    assert shown.getvalue().startswith("a\ufffd]0;title\ufffd\ufffd[2J\ufffd\ufffd31m\ttab\nline")
    assert not set(shown.getvalue()) & {"\x1b", "\x07", "\x08", "\x9b"}


def test_a_prompt_with_lone_surrogates_is_an_error(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: generate.main([f"run={finished}", "prompt=a\udcff"])) == 2
    assert capsys.readouterr().err == "error: prompt: is not valid UTF-8; prompts are text in that encoding\n"
