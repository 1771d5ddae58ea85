"""Whole commands on a synthetic task: train, resume, evaluate, report, and those that need text."""

import json
from pathlib import Path

import pytest

from src import evaluate, export, generate, prepare, report
from src.cli.command import run_cli
from src.runs import __main__ as runs
from src.runtime.atomic_files import read_json
from tests.integration import tiny

TASK = [
    *(item for item in tiny.SETTINGS if not item.startswith(("evaluation.", "samples."))),
    *("data=mqar", "data.task.vocab_size=32", "data.task.pairs=2", "data.task.test_lengths=[32,48]"),
    *("data.task.test_pairs=[2,4]", "optimizer.learning_rate=1e-2", "training.eval_sequences=32"),
]


def train(root: Path, *more: str) -> int:
    return tiny.train_main([*TASK, f"output_root={root}", *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a task; read only."""
    root = tmp_path_factory.mktemp("task")
    assert train(root, "tracking=none") == 0
    return tiny.only_run(root)


def test_a_run_reports_the_accuracy_of_its_answers(trained: Path) -> None:
    summary, evaluation = read_json(trained / "summary.json"), read_json(trained / "evaluation.json")
    stage = summary["stages"]["task"]
    assert 0 <= stage["val_accuracy"] == summary["final"]["val_accuracy"] <= 1
    assert stage["val_bits_per_byte"] is None and stage["corpus"] == "task"
    rows = tiny.read_rows(trained)
    assert all("val/accuracy" in row and "val/bits_per_byte" not in row for row in rows if "val/loss" in row)
    answers = evaluation["stages"]["task"]["answers"]
    assert list(zip(answers["length"], answers["value"], strict=True)) == [(32, 2), (32, 4), (48, 2), (48, 4)]
    test = evaluation["stages"]["task"]["test"]["task"]
    assert test["accuracy"] == pytest.approx(sum(answers["accuracy"]) / 4, abs=1e-6)
    assert not (trained / "tokenizer.json").exists() and not (trained / "samples").exists()
    assert "data=mqar" in summary["command"] and "stage=task" in summary["command"]


def test_an_interrupted_run_goes_on_to_the_same_rows(trained: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert train(tmp_path, "tracking=none") == 130
    assert train(tmp_path, "tracking=none") == 0
    again = tiny.only_run(tmp_path)
    assert again.name == trained.name
    assert tiny.read_untimed_rows(again) == tiny.read_untimed_rows(trained)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["replicate", "shard"])
def test_two_processes_answer_as_one_does(parallel: str, trained: Path, tmp_path: Path) -> None:
    arguments = [*TASK, f"output_root={tmp_path}", "tracking=none", f"runtime.parallel={parallel}"]
    tiny.train_together(2, arguments)
    rows, expected = tiny.read_rows(tiny.only_run(tmp_path)), tiny.read_rows(trained)
    assert [row.get("val/accuracy") for row in rows] == [row.get("val/accuracy") for row in expected]
    losses = [[row["val/loss"] for row in each if "val/loss" in row] for each in (rows, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    answers = [read_json(run / "evaluation.json")["stages"]["task"] for run in (tiny.only_run(tmp_path), trained)]
    assert answers[0]["answers"]["accuracy"] == answers[1]["answers"]["accuracy"]


def test_a_run_ends_above_its_accuracy(trained: Path, tmp_path: Path) -> None:
    """At the first validation after a step; interrupted before it, at the same one."""
    arguments = "tracking=none", "training.stop_accuracy=0", "training.eval_every=2", "training.checkpoint_every=1"
    roots = tmp_path / "whole", tmp_path / "interrupted"
    with pytest.MonkeyPatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert train(roots[1], *arguments) == 130
    assert [train(root, *arguments) for root in roots] == [0, 0]
    whole, again = map(tiny.only_run, roots)
    stage = read_json(whole / "summary.json")["stages"]["task"]
    rows = [row for row in tiny.read_untimed_rows(whole) if row.get("val/accuracy") is not None and row["step"]]
    assert stage["steps"] == rows[-1]["step"] < read_json(trained / "summary.json")["stages"]["task"]["steps"]
    assert stage["val_accuracy"] > 0 and all(row["val/accuracy"] == 0 for row in rows[:-1])
    assert tiny.read_untimed_rows(again) == tiny.read_untimed_rows(whole)
    assert "answers" in read_json(whole / "evaluation.json")["stages"]["task"]


def test_the_command_of_a_run_finds_it_again(trained: Path) -> None:
    from src.runs.repeat_command import repeat_command

    command = repeat_command(trained)
    assert command is not None and "data.task.pairs=2" in command and "data.dir" not in command


def test_evaluate_and_report_read_a_task(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (trained / "evaluation.json").read_bytes()
    assert run_cli(lambda: evaluate.main([f"run={trained}", "rerun=true", "device=cpu", "threads=1"])) == 0
    text = capsys.readouterr().out
    assert "accuracy" in text and "length 48, pairs 4" in text and "bits per byte" not in text
    assert (trained / "evaluation.json").read_bytes() == before
    assert run_cli(lambda: evaluate.main([f"run={trained}", "format=json", "device=cpu", "threads=1"])) == 0
    assert "accuracy" in json.loads(capsys.readouterr().out)
    assert run_cli(lambda: report.main([f"dir={trained}"])) == 0
    assert "accuracy" in (trained / "report" / "summary.md").read_text()


def test_the_list_of_runs_names_what_a_task_has(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = f"output_root={trained.parents[1]}"
    assert run_cli(lambda: runs.main([root])) == 0
    listed = capsys.readouterr()
    assert "accuracy" in listed.out and listed.err.endswith("best=val_accuracy\n")
    assert run_cli(lambda: runs.main([root, f"show={trained.name}"])) == 0
    shown = capsys.readouterr().out
    assert "val_accuracy" in shown and "test_accuracy" in shown
    assert f"evaluate: python -m src.evaluate run={trained}" in shown and "src.generate" not in shown


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (generate, ["run={run}", "prompt=x"], "which has no text"),
        (export, ["format=huggingface", "run={run}", "out={out}"], "which has no text"),
        (prepare, ["data=mqar", "output_root={out}"], "there is nothing to prepare"),
        (evaluate, ["run={run}", "data_dir=x"], "leave it out"),
    ],
)
def test_commands_that_need_text_say_so_in_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command, arguments, message
) -> None:
    filled = [item.format(run=trained, out=tmp_path / "out") for item in arguments]
    assert run_cli(lambda: command.main(filled)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["stage=language"], "give stage=task"),
        (["tokenizer=bpe_4k"], "give tokenizer=none"),
        (["training.document_masking=true"], "is for text"),
        (["training.sampling=replacement"], "is for text"),
        (["tokenizer.vocab_size=64"], "leave it out"),
        (["data.task.pairs=9"], "more than the length 32"),
        (["recipe.position=learned", "recipe.max_seq_len=40"], "beyond the 40 learned positions"),
    ],
)
def test_settings_that_a_task_cannot_have_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    assert train(tmp_path, *given) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_a_stage_of_a_task_needs_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.train_main([*tiny.SETTINGS, "data=embedded", "stage=task", f"output_root={tmp_path}"]) == 2
    assert "data=embedded is no task" in capsys.readouterr().err
