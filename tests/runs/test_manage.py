"""`python -m src.runs`: list, describe, compare, remove and prune runs."""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from src import evaluate, export, generate, report
from src.cli.command import run_cli
from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig
from src.reporting import load_runs
from src.runs import __main__ as runs
from src.runs.evaluation_file import EVALUATION
from src.runtime.atomic_files import read_json, write_json, write_yaml
from src.runtime.run_lock import acquire_run_lock
from src.sweep.job_store import Job, JobStore
from tests.integration import tiny
from tests.reporting.conftest import SweepBuilder
from tests.summaries import final, write_summary

DENSE, MOE = "dense-nano-full-s0-0000abcd", "moe-nano-full-s0-0000abcd"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An output root with a finished sweep of two architectures, a failed run and one without a sweep."""
    builder = SweepBuilder(tmp_path / "outputs")
    builder.add("dense")
    builder.add("moe")
    builder.add("mamba", status="failed", error="stage language has diverged", stages=("language",))
    write_summary(builder.root / "runs" / "alone", run="alone", final=final(100.0))
    return builder.root


def write_config(folder: Path, **changes: Any) -> None:
    """Write the config.yaml of a run with default settings, apart from changes."""
    register_schema(TrainConfig, "train")
    write_yaml(folder / "config.yaml", asdict(replace(compose_config(TrainConfig, "train", []), **changes)))


@pytest.fixture
def ask(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command with arguments, and return what it prints."""

    def run(*arguments: str, output_root: Path = root) -> str:
        capsys.readouterr()
        assert run_cli(lambda: runs.main([f"output_root={output_root}", *arguments])) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return run


@pytest.fixture
def complain(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the command with invalid arguments, and return its one line; nothing is removed."""

    def run(*arguments: str) -> str:
        before = sorted(root.rglob("*"))
        capsys.readouterr()
        assert run_cli(lambda: runs.main([f"output_root={root}", *arguments])) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.startswith("error: ") and said.err.count("\n") == 1
        assert sorted(root.rglob("*")) == before
        return said.err.removeprefix("error: ").strip()

    return run


def names(table: str) -> list[str]:
    """Return the first column of the list of runs."""
    return [line.split()[0] for line in table.partition("\n\n")[0].splitlines()[1:]]


def test_the_list_has_every_run(ask: Callable[..., str]) -> None:
    header, *rows = ask().splitlines()
    assert header.split() == "name architecture size stage seed status tokens bits per byte time disk".split()
    (dense,) = [row.split() for row in rows if row.startswith("dense")]
    assert dense[:8] == [DENSE, "dense", "nano", "full", "0", "done", "614k", "val"]
    assert dense[8] == "0.9017"
    assert rows[-1].startswith("4 runs, ")


def test_the_list_prefers_the_result_on_the_test_split(root: Path, ask: Callable[..., str]) -> None:
    test = {"code": {"loss": 2.0, "bits_per_byte": 0.8765, "tokens": 10}}
    entry = {"corpus": "code", "weights_sha256": "", "test": test, "references": {}, "samples": []}
    write_json(root / "runs" / DENSE / EVALUATION, {"stages": {"code": entry}})
    (line,) = [line for line in ask().splitlines() if line.startswith("dense")]
    assert " 0.8765 " in line and "val" not in line


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["filter=[architecture=moe,status=done]"], [MOE]),
        (["filter=[name=*-full-*]", "sort=name"], [DENSE, "mamba-nano-full-s0-0000abcd", MOE]),
        (["filter=[status=done,size=nano]", "sort=-bits_per_byte"], [DENSE, MOE, "alone"]),
        (["filter=[status=done]", "sort=bits_per_byte"], [MOE, DENSE, "alone"]),
        (["filter=['seed=0']", "sort=tokens", "filter=[status=done]"], ["alone", DENSE, MOE]),
    ],
)
def test_filter_and_order(ask: Callable[..., str], arguments: list[str], wanted: list[str]) -> None:
    assert names(ask(*arguments)) == wanted


def test_no_run_fulfills_a_filter(ask: Callable[..., str]) -> None:
    assert ask("filter=[architecture=hybrid]") == "No run fulfills filter=[architecture=hybrid]\n"


@pytest.mark.parametrize(
    ("width", "left"),
    [
        (200, "name architecture size stage seed status tokens bits per byte time disk"),
        (80, "name status tokens bits per byte time disk"),
        (60, "name status bits per byte disk"),
        (20, "name"),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(
    ask: Callable[..., str], monkeypatch: pytest.MonkeyPatch, width: int, left: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    header, *rows = ask().partition("\n\n")[0].splitlines()
    assert header.split() == left.split()
    assert len(rows) == 4 and (width == 20 or max(map(len, [header, *rows])) <= width)


def test_a_run_whose_process_was_killed_is_interrupted(root: Path, ask: Callable[..., str]) -> None:
    write_summary(root / "runs" / "alone", run="alone", status="running")
    assert names(ask("filter=[status=interrupted]")) == ["alone"]
    with acquire_run_lock(root / "runs" / "alone"):
        assert names(ask("filter=[status=running]")) == ["alone"]


def test_a_link_is_left_out(root: Path, ask: Callable[..., str], complain: Callable[..., str]) -> None:
    (root / "runs" / "link").symlink_to(root / "runs" / "alone")
    text = ask()
    assert "link" not in names(text) and "Left out, a symbolic link: link" in text
    for key in ("show=link", "remove=[link]", f"remove=[{root}/runs/link]", "diff=[alone,link]"):
        assert "is a symbolic link; give the path of its target" in complain(key, *["confirm=true"] * ("rem" in key))


def test_names_with_control_characters_are_printed_in_one_line(root: Path, ask: Callable[..., str]) -> None:
    write_summary(root / "runs" / "b\n\x1b[31m", run="b")
    for arguments in (["filter=[name=b*]"], ["show=b"], ["remove=[b]"]):
        text = ask(*arguments)
        assert "\x1b" not in text and "b\\n\ufffd[31m" in text


def test_show_describes_a_run(root: Path, ask: Callable[..., str]) -> None:
    write_config(root / "runs" / DENSE, seed=7)
    write_config(root / "runs" / "alone", init_from=f"outputs/runs/{DENSE}")
    checkpoint = root / "runs" / DENSE / "checkpoints" / "code" / "best"
    write_json(checkpoint / "meta.json", {"progress": {"step": 150}})
    (root / "runs" / DENSE / "tokenizer.json").touch()
    text = ask("show=dense")
    for wanted in (
        f"{root}/runs/{DENSE}: done, ",
        "architecture dense, size nano, recipe modern, stage full, data embedded, seed 0",
        "  seed=7 (default: 0)",
        "| stage             | language |   code |",
        "| val_bits_per_byte |   0.9919 | 0.9017 |",
        "| code/best  |  150 |",
        "  weights: new",
        f"  listed by: {root}/sweeps/demo-12345678",
        f"  start of: {root}/runs/alone",
        "  repeat: not known",
        f"python -m src.generate run={root}/runs/{DENSE}",
        f"python -m src.report dir={root}/runs/{DENSE}",
    ):
        assert wanted in text, f"{wanted}\n{text}"
    assert f"  weights: outputs/runs/{DENSE} (" in ask("show=alone")
    assert "error: stage language has diverged" in ask("show=mamba") and "not known: " in ask("show=mamba")


def test_diff_lists_what_differs(root: Path, ask: Callable[..., str], complain: Callable[..., str]) -> None:
    assert "config.yaml: no such file" in complain("diff=[dense,moe]")
    write_config(root / "runs" / DENSE, seed=1)
    write_config(root / "runs" / MOE, seed=2, match="none", output_root="elsewhere")
    text = ask(f"diff=[dense,{root}/runs/{MOE}]")
    settings = text.partition("Settings that differ\n")[2].partition("\n\n")[0].splitlines()
    assert settings == ["  match: active | none", "  seed: 1 | 2"]
    assert "| val_bits_per_byte  | 0.9017 | 0.8566 |" in text


def test_best_finds_the_best_finished_run(root: Path, ask: Callable[..., str]) -> None:
    lines = ask("best=val_bits_per_byte").splitlines()
    assert lines[:2] == [f"{root}/runs/{MOE}", "val_bits_per_byte 0.8566, the lowest of 2 finished runs"]
    assert lines[2] == "Without this metric: 1 finished run" and len(lines) == 3
    lines = ask("best=tokens_per_second").splitlines()
    assert lines[0].endswith(DENSE) and "the highest of 3" in lines[1] and "2 different contracts" in lines[2]
    assert ask("best=language/val_loss", "filter=[architecture=dense]").splitlines()[0].endswith(DENSE)


MISTAKES = [
    (["show=nothing"], "show=nothing: no such run in "),
    (["show=mao-nano-full-s0-0000abcd"], f"did you mean {MOE}?"),
    (["show=m"], f"show=m: 2 runs begin so (mamba-nano-full-s0-0000abcd, {MOE}); give more of the name"),
    (["show="], "show=: no such run in "),
    (["show=/tmp"], "/tmp is not the folder of a run"),
    (["show=../runs"], "show=../runs: no such run"),
    (["diff=[dense]"], "diff=[dense]: give two different runs"),
    (["diff=[dense,dense-nano]"], "give two different runs"),
    (["best=val_bits"], "best=val_bits: no such metric; did you mean val_bits_per_byte"),
    (["best=test_loss"], "best=test_loss: no finished run has it, of 3 finished runs"),
    (["filter=[architecture]"], "filter=architecture: must be COLUMN=VALUE"),
    (["filter=[color=red]"], "filter=color=red: no such column; there are name, architecture"),
    (["filter=moe"], "filter=moe: must be a list, as in filter=[a,b]"),
    (["sort=color"], "sort=color: no such column; there are name, architecture"),
    (["sort=name", "show=dense"], "sort: has no effect with show; it is for the list"),
    (["confirm=true"], "confirm: has no effect on the list of runs; it is for remove or prune"),
    (["force=true", "prune=true"], "force: has no effect with prune; it is for remove"),
    (["show=dense", "best=val_loss"], "best: contradicts show; give one of show, diff, best, remove, prune"),
    (["remove=[alone,nothing]", "confirm=true"], "remove=nothing: no such run"),
    (["remove=[alone,dense]", "confirm=true"], f"demo-12345678 lists {DENSE}; force=true removes"),
    (["output_root=/nowhere"], "output_root=/nowhere: no run in its folder runs; train first"),
]


@pytest.mark.parametrize(("arguments", "wanted"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_mistakes(complain: Callable[..., str], arguments: list[str], wanted: str) -> None:
    assert wanted in complain(*arguments)


def test_remove_says_what_it_would_do_and_does_it_when_confirmed(root: Path, ask: Callable[..., str]) -> None:
    text = ask("remove=[alone,alone]")
    assert text.startswith(f"{root}/runs/alone  ") and "Would remove 1 run, " in text
    assert (root / "runs" / "alone").is_dir()
    text = ask("remove=[alone]", "confirm=true")
    assert text.startswith(f"{root}/runs/alone  ") and "\nRemoved 1 run, " in text
    assert not (root / "runs" / "alone").exists() and not list((root / "runs").glob(".*"))


def test_remove_refuses_the_start_of_another_run(
    root: Path, ask: Callable[..., str], complain: Callable[..., str]
) -> None:
    child = root / "runs" / "child"
    write_summary(child, run="child")
    write_config(child, init_from="outputs/runs/alone/checkpoints/language/best")
    line = complain("remove=[alone]", "confirm=true")
    assert line == "remove: child started from alone; force=true removes the runs nevertheless"
    write_config(child, init_from=str(root / "runs" / ".." / "runs" / "alone"))
    assert complain("remove=[alone]") == line
    assert "Would remove 2 runs" in ask("remove=[alone,child]")
    assert "Removed 1 run" in ask("remove=[alone]", "force=true", "confirm=true")
    assert child.is_dir() and not (root / "runs" / "alone").exists()


def test_remove_with_force_leaves_a_sweep_that_starts_the_job_again(root: Path, ask: Callable[..., str]) -> None:
    assert "Removed 1 run" in ask("remove=[dense]", "force=true", "confirm=true")
    assert list(load_runs(root / "sweeps" / "demo-12345678")["run"])


def test_remove_refuses_a_run_in_use_even_with_force(root: Path, complain: Callable[..., str]) -> None:
    with acquire_run_lock(root / "runs" / "alone"):
        line = complain("remove=[dense,alone]", "force=true", "confirm=true")
    assert line.startswith("remove=alone: another process works in ")


def test_remove_refuses_links_within_a_run(root: Path, tmp_path: Path, complain: Callable[..., str]) -> None:
    (root / "runs" / "alone" / "samples").symlink_to(tmp_path)
    assert "samples: is a symbolic link" in complain("remove=[alone]", "force=true", "confirm=true")


def test_remove_refuses_a_folder_elsewhere_that_only_looks_like_a_run(
    tmp_path: Path, complain: Callable[..., str], ask: Callable[..., str]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "config.yaml").write_text("name: mine\n", encoding="utf-8")
    assert "has no summary.json" in complain(f"remove=[{project}]", "force=true", "confirm=true")
    write_summary(tmp_path / "other" / "runs" / "far", run="far")
    assert "Removed 1 run" in ask(f"remove=[{tmp_path}/other/runs/far]", "confirm=true")
    assert not (tmp_path / "other" / "runs" / "far").exists()


def test_a_damaged_sweep_stops_remove_unless_forced(
    root: Path, complain: Callable[..., str], ask: Callable[..., str]
) -> None:
    (root / "sweeps" / "demo-12345678" / "sweep.json").write_text("{", encoding="utf-8")
    assert "sweep.json: not a JSON file" in complain("remove=[alone]", "confirm=true")
    assert "weights: not known" not in ask("show=alone")
    assert "Removed 1 run" in ask("remove=[alone]", "force=true", "confirm=true")


def add_trial(root: Path, name: str, **changes: Any) -> Path:
    """Add a trial of a search, with a checkpoint of 1,000 bytes."""
    folder = root / "runs" / name
    write_summary(folder, **{"run": name, "contract": {"learning_rate_search": "trial"}, **changes})
    (folder / "checkpoints" / "language" / "last").mkdir(parents=True)
    (folder / "checkpoints" / "language" / "last" / "model.safetensors").write_bytes(b"x" * 1000)
    return folder


def test_prune_removes_the_checkpoints_of_finished_trials(root: Path, ask: Callable[..., str]) -> None:
    done, listed = add_trial(root, "trial-a"), ["trial-a", "trial-b", "trial-c", "trial-d"]
    add_trial(root, "trial-b", status="interrupted")
    add_trial(root, "trial-c", contract={"learning_rate_search": "none"})
    add_trial(root, "trial-d")
    add_trial(root, "trial-e")  # no search lists it
    write_config(root / "runs" / "alone", init_from=f"{root}/runs/trial-d")
    jobs = [Job(name, f"../../runs/{name}", [], "dense", "nano", "modern", "language", "local", 0) for name in listed]
    store = JobStore(root / "tuning" / "nano-1")
    store.open("tuning", jobs)
    wanted = "trial-a  1 kB  all checkpoints of this trial\n"
    assert ask("prune=true").endswith(f"{wanted}Would free 1 kB of 1 run; confirm=true removes these files\n")
    assert (done / "checkpoints").is_dir()
    with acquire_run_lock(done):
        text = ask("prune=true", "confirm=true")
    assert f"Left alone: another process works in {done}\n" in text and "\nNothing to prune" in text
    assert "Nothing to prune" in ask("prune=true", "filter=[name=trial-b]", "confirm=true")
    assert ask("prune=true", "confirm=true").endswith(f"{wanted}Freed 1 kB of 1 run\n")
    assert sorted(path.name for path in done.iterdir()) == [".lock", "summary.json"]
    assert all((root / "runs" / name / "checkpoints").is_dir() for name in [*listed[1:], "trial-e"])
    assert store.is_done(jobs[0])


def test_prune_removes_the_optimizer_state_of_complete_checkpoints(root: Path, ask: Callable[..., str]) -> None:
    counts = dict.fromkeys(("steps", "tokens", "peak_memory_bytes", "skipped_steps", "rollbacks"), 1)
    numbers = dict.fromkeys(("train_flops", "tokens_per_second", "wall_time_s"), 1.0)
    losses = dict.fromkeys(("val_loss", "val_bits_per_byte", "best_val_loss"))
    stage = {"corpus": "language", "status": "done", "references": {}, **counts, **numbers, **losses}
    for name, status in (("done", "done"), ("stopped", "interrupted")):
        folder = root / "runs" / name
        write_summary(folder, run=name, status=status, stages={"language": stage, "code": stage})
        for file in ("language/best/model.safetensors", "language/last/meta.json", "language/last/model.safetensors",
                     "language/last/state.pt", "code/last/state.pt"):  # fmt: skip
            (folder / "checkpoints" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "checkpoints" / file).write_bytes(b"x" * 2000)
    assert "done  2 kB  optimizer state of stage language\nFreed 2 kB of 1 run\n" in ask("prune=true", "confirm=true")
    left = {path.relative_to(root / "runs") for path in (root / "runs").glob("*/checkpoints/*/*/*")}
    assert len(left) == 9 and Path("done/checkpoints/language/last/state.pt") not in left


@pytest.mark.slow
def test_a_pruned_run_is_as_good_as_before(
    data: Path, tmp_path: Path, ask: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    output_root, more = tmp_path / "tiny", ["stage=full", "training.max_steps=2", "training.eval_every=2"]
    assert tiny.run(data, output_root, *more) == 0
    run = tiny.only_run(output_root)
    state = sorted(run.glob("checkpoints/*/last/state.pt"))
    others = {path for path in run.rglob("*") if path not in state}
    size = sum(path.stat().st_size for path in state)
    assert "optimizer state of stages language, code" in ask("prune=true", output_root=output_root)
    assert len(state) == 2 and all(path.exists() for path in state)
    text = ask("prune=true", "confirm=true", output_root=output_root)
    assert text.splitlines()[-1] == f"Freed {size / 1e6:.0f} MB of 1 run"
    assert set(run.rglob("*")) == others
    assert "Nothing to prune" in ask("prune=true", "confirm=true", output_root=output_root)

    command = next(line for line in ask(f"show={run}").splitlines() if line.startswith("  repeat: "))
    assert tiny.train_main(shlex.split(command)[4:]) == 0
    assert "Done already" in capsys.readouterr().out
    assert run_cli(lambda: generate.main([f"run={run}", "prompt=Once", "max_new_tokens=2", "threads=1"])) == 0
    assert run_cli(lambda: export.main([f"run={run}", "format=huggingface", f"out={tmp_path / 'out'}"])) == 0
    before = read_json(run / EVALUATION)["stages"]
    assert run_cli(lambda: evaluate.main([f"run={run}", "rerun=true", "device=cpu", *tiny.EVALUATION])) == 0
    assert read_json(run / EVALUATION)["stages"] == before and list(before) == ["language", "code"]
    assert run_cli(lambda: report.main([f"dir={output_root}"])) == 0
    for source in (run, run / "checkpoints" / "language" / "best"):
        settings = ["stage=code", f"init_from={source}", "training.max_steps=1", "evaluation.enabled=false"]
        assert tiny.run(data, output_root, *settings) == 0


@pytest.mark.slow
def test_show_gives_the_command_that_resumes_a_run(
    data: Path, tmp_path: Path, ask: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "tiny outputs"
    given = ["architecture=moe", "runtime.device=auto", "runtime.threads=null"]
    assert tiny.run(data, root, *given, "training.max_steps=2", "evaluation.enabled=false") == 0
    run = tiny.only_run(root)
    tiny.change_summary(run, status="interrupted")
    command = next(line for line in ask(f"show={run}").splitlines() if line.startswith("  resume: "))
    assert "architecture=moe" in command and "threads" not in command and os.fspath(root) in command
    assert tiny.train_main(shlex.split(command)[4:]) == 0
    assert tiny.only_run(root) == run and "Run: " in capsys.readouterr().out
