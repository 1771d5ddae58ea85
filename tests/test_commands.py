"""User errors of each command: one line, exit status 2, and nothing is written."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src import __main__, evaluate, generate, prepare, report, train
from src.cli.command import run_cli
from src.config.schema import ROOT
from tests.integration import tiny

Main = Callable[[list[str]], int]
COMMANDS: dict[str, Main] = {
    "train": train.main,
    "prepare": prepare.main,
    "generate": generate.main,
    "evaluate": evaluate.main,
    "report": report.main,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, with another folder as home and an empty standard input."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    return tmp_path


def run_failing_command(command: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail with one line and write nothing; return the line."""
    assert run_cli(lambda: COMMANDS[command](arguments)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
    assert list(Path().iterdir()) == []
    return said.err.removeprefix("error: ").strip()


ARCHITECTURES = (
    "dense, dense_conv, dense_qk_norm, gated_deltanet, griffin, hybrid, jamba, mamba, mamba1, moe, "
    "moe_hybrid, window_attention"
)
TRAIN = [
    ("training.seqlen=64", "training.seqlen: no such setting; did you mean training.seq_len?"),
    ("seed=abc", "seed=abc: must be of type integer"),
    ("architecture=mixtral", f"architecture=mixtral: no such choice; there are {ARCHITECTURES}"),
    ("+unknown.key=1", "unknown: no such setting"),
    ("--model-size large", "--model-size: settings have no dashes; write size=tiny"),
    ("moe", "moe: settings are written key=value, for example architecture=moe"),
    ("architecture=dense,moe", "architecture=dense,moe: several values make a sweep; add -m"),
    ("training.micro_batch_size=3", "training.micro_batch_size=3: must divide training.global_batch_size=8"),
    ("training.micro_batch_size=2.5", "training.micro_batch_size=2.5: must be a whole number, or auto"),
    ("training.memory=lean optimizer=muon", "training.memory=lean: is for optimizer=adamw; set training.memory=full"),
    ("training.memory=bf16_weights runtime.precision=fp16", "training.memory=bf16_weights: its weights are bf16"),
    ("architecture.top_k=3", "architecture.top_k=3: architecture dense has no moe block"),
    ("match=time", "match=time: must be one of active, total, flops, none"),
    ("optimizer.learning_rate=-1", "optimizer.learning_rate=-1.0: must be greater than 0"),
    ("runtime.precision=fp16 runtime=cpu", "runtime.precision=fp16: too narrow and slow on a CPU; use fp32 or bf16"),
    ("init_from=nowhere", "nowhere: no such folder; give a run directory"),
    ("init_from=.", "no checkpoint in it; give the directory of a trained run"),
    ("data=local", "data=local: not prepared in outputs/data; first run python -m src.prepare data=local"),
    ("data.dir=/nope", "data.dir=/nope: no prepared data there; write some with python -m src.prepare"),
    ("data.dir=~/no data", "data.dir=~/no data: no prepared data there"),
    ("size.d_model=100", "size.d_model=100: must be a multiple of size.head_dim=64; for example 64"),
    ("-m seed=0,1 sweep_name=../x", "sweep_name=../x: names a folder"),
    ("-m architecture=dense,mixtral", "architecture=mixtral: no such choice"),
    ("-m seed=0,0", "two jobs of the sweep are the same run; drop one of the values"),
    ("-m seed=0,1 training.micro_batch_size=4,3", "training.micro_batch_size=3: must divide"),
    ("-m +experiment=demo foo=1", "foo: no such setting"),
    ("data.dir=/a data.seed=1", "data.seed=1: has no effect, since data.dir is prepared data; leave one out"),
    ("tokenizer=bpe_4k data.dir=/a", "tokenizer=bpe_4k: has no effect, since data.dir is prepared data"),
    ("size=xlarge", "training needs about"),
    ("data.dir=/a,b", "add -m; a path with a comma is quoted twice: 'data.dir=\"/a,b\"'"),
    ("learning_rates=/a,b", "a path with a comma is quoted twice: 'learning_rates=[\"/a,b\"]'"),
    ("launcher=joblib", "launcher=joblib: is for sweeps; add -m, or leave it out"),
    ("sweep.retries=3", "sweep.retries=3: is for sweeps; add -m, or leave it out"),
    ("seed=18446744073709551616", "seed=18446744073709551616: must be at most 9007199254740991"),
    ("runtime.threads=99999999999", "runtime.threads=99999999999: must be at most 512"),
    ("output_root=~nosuchuser/x", "output_root=~nosuchuser/x: there is no such user"),
]


@pytest.mark.parametrize(("line", "expected"), TRAIN, ids=[line for line, _ in TRAIN])
def test_train_errors_are_one_line(
    line: str, expected: str, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("started although the command is wrong")

    for target in ("src.runs.runner.execute_run", "src.sweep.launch.launch", "src.runs.planning.prepare_data"):
        monkeypatch.setattr(target, refuse)
    own = [f"data.dir={data}"] if "data" not in line.replace("data.dir", "data") else []
    split = [line] if line.endswith("no data") else line.split()
    assert expected in run_failing_command("train", [*own, *split], capsys)


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_a_missing_device_is_an_error_before_preparation(
    device: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    line = run_failing_command("train", [f"runtime.device={device}"], capsys)
    assert line == f"runtime.device={device}: not available on this machine (there is cpu); use runtime=auto"


@pytest.mark.parametrize("seq_len", [5000, 100_000])
def test_sequences_longer_than_the_text_are_an_error_before_training(
    seq_len: int, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for start in ([], ["-m", "seed=0,1"]):
        line = run_failing_command("train", [*start, f"data.dir={data}", f"training.seq_len={seq_len}"], capsys)
        assert f"training.seq_len={seq_len}: the " in line and "choose a smaller training.seq_len" in line


PREPARE = [
    (["data=local", "output_root=a,b"], "a path with a comma is quoted twice: 'output_root=\"a,b\"'"),
    (["data=local"], "data.language.paths is empty: the local source needs files, folders or globs"),
    (["data=local", "data.language.paths=[nope.txt]"], "data.language.paths=[nope.txt]: it does not exist"),
    (["data=local", "data.language.paths=[~/my text]"], "data.language.paths=[~/my text]: it does not exist"),
    (["data=local", "data.language.paths=[*.txt]"], "data.language.paths=[*.txt]: this glob finds nothing"),
    (["data=tinystories_bash", "data.code.repositories=rust"], "data.code.repositories=rust: no such list; choose"),
    (["data=tinystories_bash", "data.language.revision=main"], "data.language.revision=main: must be a whole commit"),
    (["data=local", "data.language.paths=x"], "must be a list, as in data.language.paths=[a,b]"),
    (
        ["data=nope"],
        "data=nope: no such choice, file or folder (a name is one of associative_recall, compression",
    ),
    (["tokenizer.vocab_size=10"], "tokenizer.vocab_size=10: must be at least 257"),
    (["data.val_fraction=2"], "data.val_fraction=2.0: is a share, at most 1"),
    (["data.code.max_bytes=0"], "data.code.max_bytes=0: must be greater than 0"),
    (["data.seed=-1"], "data.seed=-1: must not be negative"),
    (["data.language.max_tokens=0"], "data.language.max_tokens=0: must be greater than 0"),
    (["data.code.near_duplicates=keep"], "data.code.near_duplicates=keep: must be one of drop, report, off"),
    (["tokenizer.code_share=2"], "tokenizer.code_share=2.0: is a share, at most 1"),
    (["tokenizer.eot=</s>"], "tokenizer.eot=</s>: is for a tokenizer that tokenizer.path names; leave it out"),
    (["tokenizer.path=x", "tokenizer.code_share=0.3"], "tokenizer.code_share=0.3: tokenizer.path is not trained"),
    (["tokenizer.path=~/my x"], "tokenizer.path=~/my x: no tokenizer.json there; give such a file, or a folder"),
    (["tokenizer.compare=gpt2"], "tokenizer.compare=gpt2: no tokenizer.json there"),
    (["mode=look"], "mode=look: must be one of prepare, inspect"),
    (
        ["mode=inspect", "data.seed=5"],
        "mode=inspect: data=embedded is not prepared in outputs; leave mode out to do it",
    ),
    (["mode=inspect", "documents=-1"], "documents=-1: must not be negative"),
    (["data.seed=0,1"], "data.seed=0,1: several values make a sweep, as only src.train -m does"),
    (["-m", "data.seed=0,1"], "--multirun: prepare has no sweeps; only train and estimate have"),
    (["architecture=moe"], "architecture: no such setting"),
    (["stories.txt"], "stories.txt: settings are written key=value"),
    (["--input", "x"], "--input: no such flag"),
]


GENERATE = [
    ([], "run: is needed; write run=..."),
    (["run=nowhere"], "nowhere: no such folder; give a run directory"),
    (["run=."], "no checkpoint in it; give the directory of a trained run"),
    (["run="], "no checkpoint in it; give the directory of a trained run"),
    (["run=~/my run"], "my run: no such folder"),
    (["run=nowhere", "prompt=a", "prompt_file=b"], "prompt_file: give prompt or prompt_file, not both"),
    (["run=nowhere", "prompt_file=nope"], "prompt_file=nope: cannot be read"),
    (["run=nowhere", "prompt_file=."], "prompt_file=.: cannot be read"),
    (["run=nowhere", "temperature=-1"], "temperature=-1.0: must not be negative"),
    (["run=nowhere", "temperature=hot"], "temperature=hot: must be of type float"),
    (["run=nowhere", "max_new_tokens=0"], "max_new_tokens=0: must be greater than 0"),
    (["run=nowhere", "top_k=-1"], "top_k=-1: must not be negative"),
    (["run=nowhere", "threads=0"], "threads=0: must be greater than 0"),
    (["run=nowhere", "device=gpu"], "device=gpu: must be one of auto, mps, cuda, cpu"),
    (["run=nowhere", "top_kk=1"], "top_kk: no such setting; did you mean top_k?"),
    (["hello"], "hello: settings are written key=value"),
    (["--prompt", "hello"], "--prompt: no such flag"),
]


EVALUATE = [
    ([], "run: is needed; write run=..."),
    (["run=nowhere"], "run=nowhere: no run directory of src.train"),
    (["run=nowhere", "format=yaml"], "format=yaml: must be one of text, json"),
    (["run=nowhere", "device=gpu"], "device=gpu: must be one of auto, mps, cuda, cpu"),
    (["run=nowhere", "evaluation.scripts=-1"], "evaluation.scripts=-1: must not be negative"),
    (["run=nowhere", "evaluation.context_factor=0"], "evaluation.context_factor=0: must be greater than 0"),
    (["run=nowhere", "evaluation.probe=false"], "evaluation.probe: no such setting; did you mean evaluation.probes?"),
]


REPORT = [
    ([], "dir: is needed; write dir=..."),
    (["dir=/nope"], "dir=/nope: no such folder; give a sweep, a run or a folder of runs"),
    (["dir=."], "dir=.: no run in this folder; train first: python -m src.train"),
    (["dir=~/my, sweep"], "my, sweep: no such folder"),
    (["outputs"], "outputs: settings are written key=value"),
    (["dir=.", "format=html"], "format: no such setting"),
]


MISTAKES = [
    pytest.param(command, arguments, expected, id=" ".join([command, *arguments]))
    for command, mistakes in {"prepare": PREPARE, "generate": GENERATE, "evaluate": EVALUATE, "report": REPORT}.items()
    for arguments, expected in mistakes
]


@pytest.mark.parametrize(("command", "arguments", "expected"), MISTAKES)
def test_user_errors_are_one_line(
    command: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in run_failing_command(command, arguments, capsys)


def test_an_output_root_below_a_file_is_an_error(folder: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    for command, more in (("train", [f"data.dir={data}"]), ("prepare", [])):
        line = run_failing_command(command, ["output_root=../file/deep", *more], capsys)
        assert line.startswith("output_root=../file/deep: ") and "is no folder that you can write to" in line


def test_the_process_exits_with_status_2_without_a_traceback() -> None:
    process = tiny.start(["architecture=mixtral"], cwd=ROOT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err == f"error: architecture=mixtral: no such choice; there are {ARCHITECTURES}\n"


def test_prepare_reads_paths_with_spaces_home_and_globs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tiny.write_corpus(folder / "home" / "my text (1)")
    assert source.language.paths
    command = [
        "data=local",
        "data.language.paths=[~/my text (1)/stories.txt]",
        "data.code.paths=[~/my text (1)/scr*/*.sh]",
        "data.val_fraction=0.1",
        "tokenizer.vocab_size=300",
        "output_root=~/all outputs",
    ]
    assert run_cli(lambda: prepare.main(command)) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    prepared = Path(last.removeprefix("Data: "))
    assert prepared.parent == folder / "home" / "all outputs" / "data"
    assert (prepared / "manifest.json").exists()
    assert run_cli(lambda: prepare.main(command)) == 0
    said = capsys.readouterr().out
    assert "prepared already" in said and said.strip().splitlines()[-1] == last
    assert run_cli(lambda: prepare.main([*command, "mode=inspect", "documents=1"])) == 0
    said = capsys.readouterr().out
    assert "== code test: " in said and "-- language val document 0: " in said and "\n[#" in said


def test_train_finds_local_data_that_was_prepared_without_naming_its_paths(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.write_corpus(Path("text"))
    common = ["data=local", "data.val_fraction=0.2", "tokenizer.vocab_size=300"]
    paths = ["data.language.paths=[text/stories.txt]", "data.code.paths=[text/scripts]"]
    assert run_cli(lambda: prepare.main([*common, *paths])) == 0
    assert run_cli(lambda: train.main([*tiny.SETTINGS, *common, "training.max_steps=1"])) == 0
    assert "Run: outputs/runs/dense-nano-language-s0-" in capsys.readouterr().out


def test_a_closed_pipe_ends_a_command_quietly(folder: Path) -> None:
    command = f"{sys.executable} -m src.train --cfg job | head -c 10"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, check=False)
    assert done.stderr == b""
    assert len(done.stdout) == 10


def test_without_a_command_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.startswith("error: choose a command")
    sources = {path.stem: path.read_text("utf-8") for path in (ROOT / "src").glob("*.py")}
    commands = {name for name, source in sources.items() if "__main__" in source} - {"__main__"}
    commands |= {path.parent.name for path in (ROOT / "src").glob("*/__main__.py")}
    assert commands == set(__main__.COMMANDS)
    assert all(f"\npython -m src.{command}" in said.err for command in commands)


@pytest.mark.parametrize("flag", ["--help", "-h", "--version"])
def test_help_of_the_package(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main([flag]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("Advanced Code Model 0" if flag == "--version" else "python -m src.") and not said.err


def test_an_unknown_command_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert __main__.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: trian: no such command; choose a command")


def test_an_error_with_newlines_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli(lambda: generate.main(["run=a\nb\x1b[31m"])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "a\\nb\ufffd[31m: no such folder" in line


@pytest.mark.slow
def test_no_matplotlib_backend_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "src.benchmark", "--cfg", "job"],
        cwd=ROOT, env={**os.environ, "MPLBACKEND": "nonsense"}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
