"""The commands that a command names at its end can be copied into a shell, and do what they should."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from src import estimate, evaluate, export, generate, prepare, report, train, tune
from src.cli.command import run_cli
from src.cli.compose import Sweep
from src.cli.next_command import print_next, raw_argument, written_overrides
from src.reporting import load_runs
from src.reporting.data.runs import to_records
from src.sweep.next_steps import best_record, comparison_command, sweep_commands
from tests.integration import tiny

MAIN = {
    "train": train.main, "tune": tune.main, "prepare": prepare.main, "report": report.main, "generate": generate.main,
    "export": export.main, "evaluate": evaluate.main, "estimate": estimate.main,
}  # fmt: skip
ONE_STEP = ("training.max_steps=1", "evaluation.probes=false")


def next_commands(err: str) -> list[str]:
    """Return the commands after `Next:` in the errors of a command."""
    lines = err.rstrip().splitlines()
    first = next(index for index, line in enumerate(lines) if line.startswith("Next"))
    return [line.partition("python ")[2] for line in lines[first:]]


def call(command: str, *more: str) -> int:
    """Run `python -m src.NAME ...` in this process, with its words as the shell splits them."""
    flag, module, *arguments = shlex.split(command)
    assert flag == "-m"
    return run_cli(lambda: MAIN[module.removeprefix("src.")]([*arguments, *more]))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with characters that the shell and Hydra read."""
    folder = tmp_path / "it's, a [place] $HOME"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_a_run_is_generated_from_reported_and_exported(
    data: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(data, Path("out put"), *ONE_STEP) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1].startswith("Run: "), "scripts read the last line of the output"
    names = [command.split()[1] for command in next_commands(err)]
    assert names == ["src.generate", "src.report", "src.export"]
    for command in next_commands(err):
        assert call(command) == 0, command
    out, err = capsys.readouterr()
    assert err.count("python -m src.export format=huggingface run=") == 1, "generate names the export too"
    (folder,) = (place / "exports").iterdir()
    flag, code = shlex.split(next_commands(err[err.rindex("Next: python -c") :])[0])
    compile(code, "the next command", "exec")
    assert flag == "-c" and str(folder) in code


@pytest.mark.slow
def test_the_command_of_an_export_generates_text(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("transformers")
    assert tiny.run(data, tmp_path, *ONE_STEP) == 0
    arguments = [f"run={tiny.only_run(tmp_path)}", "format=huggingface", f"out={tmp_path / 'exported'}"]
    assert export.main(arguments) == 0
    err = capsys.readouterr().err
    words = shlex.split(next_commands(err[err.rindex("Next") :])[0])
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.startswith("Once upon a time")


@pytest.mark.slow
def test_a_job_of_a_sweep_names_none_and_the_sweep_does(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sweep = tiny.command_line(data, tmp_path, *ONE_STEP, "architecture=dense,mamba")
    assert tiny.train_main(["-m", *sweep]) == 0
    out, err = capfd.readouterr()
    assert "Next" not in out and err.count("Next:") == 1
    commands = next_commands(err)
    assert [command.split()[1] for command in commands] == ["src.tune", "src.generate", "src.export", "src.report"]
    for command in commands[:2]:
        assert call(command) == 0, command
    assert "Total: 10 trials" in capfd.readouterr().out


@pytest.mark.slow
def test_a_search_is_compared_on_seeds_that_it_did_not_use(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "with space"
    arguments = ("tune.trials=3", "tune.extensions=0", "tune.seeds=[1]", "training.max_steps=1")
    assert run_cli(lambda: tune.main(tiny.command_line(data, root, *arguments))) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1].startswith("Learning rates: ") and "Next (about " in err
    (command,) = next_commands(err)
    assert "seed=0,2,3" in command and "tune." not in command
    assert call(command, "dry_run=true") == 0
    assert "Total: 3 jobs" in capfd.readouterr().out


def test_prepared_data_is_trained_on(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.main([f"data.dir={data}", f"output_root={tmp_path}"]) == 0
    commands = next_commands(capsys.readouterr().err)
    assert len(commands) == 2
    for command in commands:
        assert call(command, "dry_run=true", *tiny.SETTINGS) == 0
    assert "12 jobs" in capsys.readouterr().out


def test_an_estimate_names_its_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate.main(["size=micro", "context_lens=[64]", "architecture=moe", f"output_root={tmp_path}"]) == 0
    (command,) = next_commands(capsys.readouterr().err)
    assert command == f"-m src.train size=micro architecture=moe output_root={tmp_path} dry_run=true"
    assert call(command) == 0


@pytest.mark.slow
def test_naming_the_commands_after_a_run_does_not_import_what_reports_need() -> None:
    code = "import sys, src.train, src.runs.runner, src.sweep.next_steps; sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("overrides", "tunes"), [([], True), (["seed=0,1"], True), (["match=active,total"], False)])
def test_a_search_is_proposed_where_it_could_be_made(
    data: Path, tmp_path: Path, overrides: list[str], tunes: bool
) -> None:
    assert tiny.run(data, tmp_path, *ONE_STEP) == 0
    plan, run = tiny.plan(data, tmp_path, *ONE_STEP), tiny.only_run(tmp_path)
    configs = [plan.config, tiny.plan(data, tmp_path, *ONE_STEP, "architecture=mamba").config]
    key, _, values = (overrides or ["seed=0"])[0].partition("=")
    jobs = [[f"architecture={name}", f"{key}={value}"] for name in ("dense", "mamba") for value in values.split(",")]
    sweep = Sweep(["architecture=dense,mamba", *overrides], jobs, is_from_experiment=False)
    commands = sweep_commands(tmp_path / "sweeps" / "s", sweep, configs, to_records(load_runs(run)))
    assert any("src.tune" in command for command in commands) is tunes
    assert not any("seed" in command for command in commands if "src.tune" in command)


def test_the_best_run_of_a_task_has_the_highest_accuracy() -> None:
    def record(loss: float, bits: float | None, accuracy: float | None) -> dict[str, float | None]:
        return {"val_loss": loss, "val_bits_per_byte": bits, "val_accuracy": accuracy}

    tasks = [record(0.3, None, 0.90), record(0.4, None, 0.95), record(0.5, None, 0.0)]
    assert best_record(tasks) is tasks[1] and best_record(tasks[::2]) is tasks[0]
    texts = [record(3.0, 1.2, None), record(3.1, 1.1, None)]
    assert best_record(texts) is texts[1]


def test_paths_are_written_as_short_as_the_shell_allows() -> None:
    overrides = ["data.dir='/a b'", "output_root='out'", "match=total", "seed=0,1", "tune.trials=3"]
    assert written_overrides(overrides, ("seed", "tune.")) == ["'data.dir=/a b'", "output_root=out", "match=total"]
    assert raw_argument("prompt", "it's") == "prompt='it'\"'\"'s'"
    command = comparison_command(["size=nano"], [Path("t/a"), Path("t/b,c")], [0, 2])
    assert shlex.split(command)[-2:] == ["seed=1,3,4", 'learning_rates=[t/a,"t/b,c"]']


def test_the_cost_is_that_of_the_first_command(capsys: pytest.CaptureFixture[str]) -> None:
    print_next(["a", "b"], 125)
    assert capsys.readouterr() == ("", "Next (about 2m 05s): a\n      b\n")
