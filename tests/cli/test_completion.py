"""Completion offers what a command accepts, in bash itself as well, without Hydra and torch and without a traceback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src import __main__
from src.__main__ import COMMANDS
from src.cli.completion import SHELLS, complete, script
from src.cli.compose import compose_config, register_schema
from src.config.schema import ROOT, TrainConfig


def candidates(line: str) -> list[str]:
    return complete(line, COMMANDS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m src.tr", ["src.train "]),
        ("python -m src --v", ["--version "]),
        ("python -m src --completion z", ["zsh "]),
        ("python -m src.train archi", ["architecture=", "architecture."]),
        ("python -m src.train architecture=mam", ["architecture=mamba ", "architecture=mamba1 "]),
        ("python -m src.train -m architecture=dense,moe_", ["architecture=dense,moe_hybrid "]),
        ("python -m src.train size=na", ["size=nano "]),
        ("python -m src.train +experiment=dem", ["+experiment=demo "]),
        ("python -m src.train optimizer.l", ["optimizer.learning_rate="]),
        ("python -m src.train data.language.pa", ["data.language.paths="]),
        ("python -m src.train match=t", ["match=total "]),
        ("python -m src.train runtime.compile=", ["runtime.compile=true ", "runtime.compile=false "]),
        ("python -m src.train sweep.live=n", ["sweep.live=null "]),
        (
            "python -m src.train tracking.trackers=[wandb,t",
            ["tracking.trackers=[wandb,trackio] ", "tracking.trackers=[wandb,tensorboard] "],
        ),
        ("python -m src.train --mul", ["--multirun "]),
        ("python -m src.train --help training.max_st", ["training.max_steps "]),
        ("python -m src.report +exp", []),
        ("python -m src.report no_such_key=", []),
        ("python -m src.nothing a", []),
        ("python other.py a", []),
        ("", []),
    ],
)
def test_candidates(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


def test_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("runs/dense-a", "runs/moe-b", "sweeps/s-1", "tuning/nano-2", "data/local-3", "runs/.hidden"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    assert candidates("python -m src.generate run=") == ["run=outputs/runs/dense-a ", "run=outputs/runs/moe-b "]
    assert candidates("python -m src.train init_from=outputs/runs/m") == ["init_from=outputs/runs/moe-b "]
    assert candidates("python -m src.report dir=")[:2] == ["dir=outputs/sweeps/s-1 ", "dir=outputs/tuning/nano-2 "]
    assert candidates("python -m src.train learning_rates=") == ["learning_rates=[outputs/tuning/nano-2] "]
    assert candidates("python -m src.train data.dir=") == ["data.dir=outputs/data/local-3 "]
    assert candidates("python -m src.runs diff=[moe-b,d") == ["diff=[moe-b,dense-a] "]
    assert candidates("python -m src.report dir=else") == ["dir=elsewhere/"]
    assert candidates("python -m src.generate output_root=x run=outputs/") == [
        f"run=outputs/{name}/" for name in ("data", "runs", "sweeps", "tuning")
    ]


@pytest.mark.slow
def test_choices_of_groups_and_settings_are_accepted_by_the_command() -> None:
    register_schema(TrainConfig, "train")
    for key in ("architecture", "size", "recipe", "schedule", "match", "training.budget", "runtime.compile"):
        for item in candidates(f"python -m src.train {key}="):
            compose_config(TrainConfig, "train", [item.strip()])


def test_neither_hydra_nor_torch_is_imported() -> None:
    code = "import sys; from src.__main__ import print_candidates; print_candidates('python -m src.train arch'); "
    code += "print([name for name in ('hydra', 'omegaconf', 'torch', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["architecture=", "architecture.", "[]"]


def test_an_error_prints_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("src.cli.completion.complete", lambda *_: 1 / 0)
    assert __main__.print_candidates("python -m src.train a") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_and_has_valid_syntax(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--completion", shell]) == 0
    assert capsys.readouterr().out == script(shell)
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script(shell), text=True, check=True, capture_output=True)


@pytest.mark.parametrize("arguments", [[], ["csh"], ["bash", "zsh"]])
def test_another_shell_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["--completion", *arguments]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: --completion {' '.join(arguments)}".rstrip() + ": name one shell"
    )


BASH = """
source /dev/stdin <<< "$SCRIPT"
COMP_LINE="$LINE" COMP_POINT=${#LINE} COMP_WORDS=("${@}") COMP_CWORD=$(($# - 1))
$(complete -p python | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash on this machine")
@pytest.mark.parametrize(
    ("line", "words", "replies"),
    [
        ("python -m src.tun", ["python", "-m", "src.tun"], ["src.tune "]),
        ("python -m src.train siz", ["python", "-m", "src.train", "siz"], ["size=", "size."]),
        ("python -m src.train size=mic", ["python", "-m", "src.train", "size", "=", "mic"], ["micro "]),
        ("python -m src.train match=", ["python", "-m", "src.train", "match", "="], "active total flops none"),
        ("python -m src.train 'size=mic", ["python", "-m", "src.train", "'size=mic"], ["size=micro"]),
        ("python other.py size=mic", ["python", "other.py", "size", "=", "mic"], [""]),
    ],
)
def test_bash_replaces_the_part_that_it_regards_as_a_word(
    line: str, words: list[str], replies: list[str] | str
) -> None:
    """The words are split at = as bash does it."""
    environment = dict(os.environ, SCRIPT=script("bash"), LINE=line)
    command = ["bash", "--norc", "-c", BASH, "bash", sys.executable, *words[1:]]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    expected = [f"{reply} " for reply in replies.split()] if isinstance(replies, str) else replies
    assert (done.stdout.removesuffix("\n").split("\n"), done.stderr) == (expected, "")
