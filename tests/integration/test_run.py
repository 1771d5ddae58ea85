"""One training run: the files it writes, repeated commands, and errors."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from src import train
from src.cli.command import run_cli
from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig
from src.reporting import write_report
from src.runtime.atomic_files import file_lock, read_json
from src.runtime.signals import Interrupted
from tests.integration import tiny

FINISHED = ("stage=full", "architecture=hybrid", *tiny.EVALUATION)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run through both stages; read only."""
    root = tmp_path_factory.mktemp("finished")
    assert tiny.run(data, root, *FINISHED) == 0
    return tiny.only_run(root)


def strict_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def test_a_run_writes_every_file(finished: Path) -> None:
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    in_stage = "best/meta.json best/model.safetensors last/meta.json last/model.safetensors last/state.pt".split()
    checkpoints = {f"checkpoints/{stage}/{file}" for stage in ("language", "code") for file in in_stage}
    assert files == checkpoints | {
        "config.yaml", "summary.json", "metrics.jsonl", "tokenizer.json", "tokenizer_config.json", "train.log", ".lock",
        "samples/language.json", "samples/code.json", "samples/code-scripts.json", "evaluation.json",
    }  # fmt: skip


def test_the_summary_is_complete_and_strict_json(finished: Path) -> None:
    summary = strict_json(finished / "summary.json")
    assert (summary["status"], summary["error"], summary["run"]) == ("done", None, finished.name)
    assert summary["data"] == "local"  # derived from the data, not from the default that data.dir replaces
    assert finished.name.startswith("hybrid-nano-full-s0-")
    assert [stage["steps"] for stage in summary["stages"].values()] == [6, 6]
    for name, stage in summary["stages"].items():
        assert stage["corpus"] == name and stage["status"] == "done"
        assert stage["tokens"] == 6 * 4 * 32
        assert stage["train_flops"] == stage["tokens"] * summary["accounting"]["train_flops_per_token"]
        assert stage["references"]["uniform_loss"] == pytest.approx(math.log(512))
        bits = stage["val_loss"] / math.log(2) / stage["val_bits_per_byte"]
        assert bits == pytest.approx(stage["references"]["bytes_per_token"], rel=0.2)
        assert all(math.isfinite(stage[key]) for key in ("val_loss", "best_val_loss", "wall_time_s"))
        assert stage["tokens_per_second"] > 0 and stage["peak_memory_bytes"] > 1e6 and stage["skipped_steps"] == 0
    final = summary["final"]
    assert final["tokens"] == 2 * 6 * 4 * 32
    assert final["val_loss"] == summary["stages"]["code"]["val_loss"]
    assert final["train_flops"] == sum(stage["train_flops"] for stage in summary["stages"].values())
    assert summary["contract"]["data_hash"] and summary["contract"]["git_commit"]
    assert all(value is None or isinstance(value, str | int | float | bool) for value in summary["contract"].values())


@pytest.mark.slow
def test_generated_text_is_evaluated_by_position_and_recall_distance(tmp_path: Path) -> None:
    text = ["data.language.max_bytes=150_000", "data.code.max_bytes=150_000", "tokenizer.vocab_size=600"]
    text += ["training.seq_len=128", "training.eval_sequences=16", "training.test_sequences=16"]
    arguments = tiny.command_line(Path(), tmp_path, "stage=full", *text)
    assert tiny.train_main([item for item in arguments if not item.startswith("data.dir")]) == 0
    for stage in strict_json(tiny.only_run(tmp_path) / "evaluation.json")["stages"].values():
        context = stage["context"]
        assert context["unparsed_documents"] == 0 and sum(context["recall"]["n"]) > 5
        floor = stage["test"][stage["corpus"]]["bits_per_byte"] - context["above_floor_bits_per_byte"]
        assert floor == pytest.approx(stage["references"]["floor_bits_per_byte"], rel=0.5), "sixteen windows of it"
        positions = context["positions"]
        assert all(floor < loss for floor, loss in zip(positions["floor"], positions["loss"], strict=True))


def test_config_yaml_holds_no_auto(finished: Path) -> None:
    config = yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8"))
    assert config["runtime"]["device"] == "cpu" and config["runtime"]["precision"] == "fp32"
    assert config["runtime"]["threads"] == 1
    assert Path(config["data"]["dir"]).is_absolute() and config["tokenizer"]["vocab_size"] == 512


def test_metrics_increase_within_each_stage(finished: Path) -> None:
    table = tiny.read_rows(finished)
    assert [row["stage"] for row in table] == sorted((row["stage"] for row in table), reverse=True)
    for stage in ("language", "code"):
        own_rows = [row for row in table if row["stage"] == stage]
        for key in ("step", "tokens", "flops", "wall_time_s"):
            values = [row[key] for row in own_rows]
            assert values == sorted(values), key
        assert [row["step"] for row in own_rows if "train/loss" in row] == [1, 2, 3, 4, 5, 6]
        assert [row["step"] for row in own_rows if "val/loss" in row] == [0, 3, 6]
        assert all(row["tokens"] == row["step"] * 4 * 32 for row in own_rows)
        rates = [row["train/learning_rate"] for row in own_rows if "train/loss" in row]
        peak = rates[1]  # after two steps of warm-up, a third of the stage
        assert rates[0] == pytest.approx(peak / 2) and rates[-1] == pytest.approx(peak / 10)
        assert rates[1:] == sorted(rates[1:], reverse=True)


def test_the_second_stage_begins_with_the_weights_of_the_first(finished: Path) -> None:
    first = strict_json(finished / "summary.json")["stages"]
    start = next(row["val/loss"] for row in tiny.read_rows(finished) if row["stage"] == "code" and row["step"] == 0)
    assert first["code"]["val_loss"] < start < math.log(512) * 1.1


def test_samples_begin_with_their_prompts(finished: Path) -> None:
    for stage in ("language", "code"):
        samples = strict_json(finished / "samples" / f"{stage}.json")
        assert len(samples) == 2
        assert all(sample["text"].startswith(sample["prompt"]) for sample in samples)
        assert all(len(sample["text"]) > len(sample["prompt"]) for sample in samples)


def test_a_repeated_command_of_a_finished_run_changes_nothing(
    finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(finished)
    assert tiny.run(data, finished.parents[1], *FINISHED) == 0
    assert capsys.readouterr().out == f"Done already (rerun=true starts over): {finished}\n"
    assert snapshot(finished) == before
    assert tiny.only_run(finished.parents[1]) == finished


def test_rerun_trains_again(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=2") == 0
    folder = tiny.only_run(tmp_path)
    first = tiny.read_rows(folder)
    (folder / "left.over").write_text("")
    capsys.readouterr()
    assert tiny.run(data, tmp_path, "training.max_steps=2", "rerun=true") == 0
    out = capsys.readouterr().out
    assert "Resuming" not in out and out.strip().splitlines()[-1] == f"Run: {folder}"
    assert not (folder / "left.over").exists()
    assert [row.get("train/loss") for row in tiny.read_rows(folder)] == [row.get("train/loss") for row in first]


@pytest.mark.slow
def test_lost_rows_of_metrics_are_reported(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        tiny.stop_after_a_save(patch)
        assert tiny.run(data, tmp_path / "whole") == 130
    shutil.copytree(tmp_path / "whole", tmp_path / "missing")
    shutil.copytree(tmp_path / "whole", tmp_path / "changed")
    (tiny.only_run(tmp_path / "missing") / "metrics.jsonl").unlink()
    changed = tiny.only_run(tmp_path / "changed") / "metrics.jsonl"
    changed.write_text(changed.read_text().replace('"train/loss": 6', '"train/loss": 5', 1))
    output: dict[str, str] = {}
    for name in ("whole", "missing", "changed"):
        capsys.readouterr()
        assert tiny.run(data, tmp_path / name) == 0
        output[name] = capsys.readouterr().out
    folders = {name: tiny.only_run(tmp_path / name) for name in output}
    lost = {name: read_json(folder / "summary.json")["metrics"]["lost"] for name, folder in folders.items()}
    assert lost == {"whole": False, "missing": True, "changed": True}
    assert "metrics.jsonl" not in output["whole"]
    assert "metrics.jsonl: 0 of 3 rows up to step 2 of stage language are left" in output["missing"]
    assert "metrics.jsonl: the 3 rows up to step 2 of stage language have changed" in output["changed"]
    reports = {name: write_report(folder).with_name("summary.md").read_text() for name, folder in folders.items()}
    assert {name: "rows were lost or changed" in text for name, text in reports.items()} == lost
    with (folders["whole"] / "metrics.jsonl").open("a") as file:
        file.write("{}\n")
    assert "rows, not the" in write_report(folders["whole"]).with_name("summary.md").read_text()


def test_a_run_does_not_resume_on_other_data(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=2") == 0
    folder = tiny.only_run(tmp_path)
    contract = read_json(folder / "summary.json")["contract"] | {"data_hash": "0" * 64}
    tiny.change_summary(folder, contract=contract, status="running")
    capsys.readouterr()
    assert tiny.run(data, tmp_path, "training.max_steps=2") == 2
    output = capsys.readouterr().err.strip().splitlines()
    assert f"{folder}: begun on data 000000000000, but {data} is" in output[-1]


def test_changed_data_is_an_error(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    with (copy / "language_train.npy").open("r+b") as handle:
        handle.seek(1000)
        byte = handle.read(1)[0]
        handle.seek(1000)
        handle.write(bytes([byte ^ 1]))
    assert tiny.run(copy, tmp_path / "outputs") == 2
    output = capsys.readouterr().err.strip()
    assert f"{copy}/language_train.npy: its content has changed since it was written" in output and "\n" not in output
    assert not (tmp_path / "outputs" / "runs").exists()


def test_a_failed_run_records_its_error_and_resumes(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        tiny.break_step(patch, 4, "the device is on fire\nand more lines")
        with pytest.raises(RuntimeError, match="on fire"):
            tiny.run(data, tmp_path)
    folder = tiny.only_run(tmp_path)
    summary = strict_json(folder / "summary.json")
    assert (summary["status"], summary["error"]) == ("failed", "RuntimeError: the device is on fire")
    assert summary["stages"] == {} and summary["final"] is None
    assert "Traceback" in (folder / "train.log").read_text(encoding="utf-8")
    capsys.readouterr()
    assert tiny.run(data, tmp_path) == 0
    assert "Resuming stage language after step 4 of 6" in capsys.readouterr().out
    assert strict_json(folder / "summary.json")["error"] is None


def test_a_locked_run_is_an_error(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.plan(data, tmp_path).folder
    with file_lock(folder / ".lock"):  # flock locks per open file, so this process can act as another one
        assert tiny.run(data, tmp_path) == 2
    output = capsys.readouterr()
    assert output.err == (
        f"error: {folder}: another process is training this run; wait for it, or change the seed or a setting\n"
    )
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert tiny.run(data, tmp_path) == 0


def test_rerun_does_not_remove_the_folder_of_a_running_process(data: Path, tmp_path: Path) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=1") == 0
    folder = tiny.only_run(tmp_path)
    before = snapshot(folder)
    with file_lock(folder / ".lock"):
        assert tiny.run(data, tmp_path, "training.max_steps=1", "rerun=true") == 2
    assert snapshot(folder) == before


@pytest.fixture(scope="session")
def replayed(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run of stage=replay, equal to `finished` except for the mixture of its second stage; read only."""
    root = tmp_path_factory.mktemp("replayed")
    assert tiny.run(data, root, "stage=replay", "architecture=hybrid") == 0
    return tiny.only_run(root)


def test_a_mixture_changes_only_its_stage(replayed: Path, finished: Path) -> None:
    with_mixture, without = tiny.read_untimed_rows(replayed), tiny.read_untimed_rows(finished)
    assert [row for row in with_mixture if row["stage"] == "language"] == [
        row for row in without if row["stage"] == "language"
    ]
    starts = [
        next(row["val/loss"] for row in table if row["stage"] == "code" and row["step"] == 0)
        for table in (with_mixture, without)
    ]
    assert starts[0] == starts[1], "evaluated on its own corpus, with the weights of the stage before"
    ends = [strict_json(folder / "summary.json")["stages"]["code"] for folder in (replayed, finished)]
    assert ends[0]["val_loss"] != ends[1]["val_loss"] and ends[0]["tokens"] == ends[1]["tokens"]
    assert ends[0]["references"] == ends[1]["references"]


def test_every_evaluation_measures_the_other_corpus(replayed: Path) -> None:
    table = tiny.read_rows(replayed)
    language = [row for row in table if row["stage"] == "language"]
    assert not any(key.startswith("val/language") for row in language for key in row)
    code = [row for row in table if row["stage"] == "code"]
    seen = {row["step"]: row for row in code if "val/language/loss" in row}
    assert list(seen) == [row["step"] for row in code if "val/loss" in row] == [0, 3, 6]
    assert all("val/loss" in row for row in seen.values()), "one row an evaluation"
    before = [row for row in language if "val/loss" in row][-1]
    assert seen[0]["val/language/loss"] == before["val/loss"], "nothing is forgotten before the first step"
    assert seen[0]["val/language/bits_per_byte"] == before["val/bits_per_byte"]
    assert seen[6]["val/language/loss"] != before["val/loss"]
    best = strict_json(replayed / "summary.json")["stages"]["code"]["best_val_loss"]
    assert best == min(row["val/loss"] for row in code if "val/loss" in row), "by its own corpus"


def test_the_contract_records_the_mixture(replayed: Path, finished: Path) -> None:
    code_rows, plain = (strict_json(folder / "summary.json")["contract"] for folder in (replayed, finished))
    assert "code: code 6 steps and 768 tokens, of dense " in plain["stages"]
    assert "code: code with 0.25 language for 6 steps and 768 tokens, of dense " in code_rows["stages"]
    orders, plain_orders = (contract["data_order_hash"].split(", ") for contract in (code_rows, plain))
    assert orders[0] == plain_orders[0] and orders[1] != plain_orders[1]
    differing = {key for key in code_rows | plain if code_rows.get(key) != plain.get(key)}
    assert differing == {"stages", "data_order_hash", "stage.stages.code.mixture.language"}


def test_a_mixture_from_the_command_line_resumes(
    replayed: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("stage=full", "architecture=hybrid", "+stage.stages.code.mixture.language=0.25")
    with monkeypatch.context() as patch:
        tiny.break_step(patch, 6 + 5)  # in the sixth step of stage code, whose last checkpoint is after the fourth
        with pytest.raises(RuntimeError, match="on fire"):
            tiny.run(data, tmp_path, *more)
    assert tiny.run(data, tmp_path, *more) == 0
    assert tiny.read_untimed_rows(tiny.only_run(tmp_path)) == tiny.read_untimed_rows(replayed)


def test_documents_are_masked_in_every_evaluation(finished: Path, data: Path, tmp_path: Path) -> None:
    """The same weights and windows give another loss, and the contract records the setting."""
    assert tiny.run(data, tmp_path, "stage=full", "architecture=hybrid", "training.document_masking=true") == 0
    masked = tiny.only_run(tmp_path)
    code_rows, plain = (strict_json(folder / "summary.json")["contract"] for folder in (masked, finished))
    assert {key for key in code_rows if code_rows[key] != plain[key]} == {"training.document_masking"}
    for key in ("val/loss", "train/loss"):
        one, other = ([row[key] for row in tiny.read_rows(folder) if key in row] for folder in (masked, finished))
        assert len(one) == len(other) and all(x != y for x, y in zip(one, other, strict=True))


@pytest.fixture
def names(data: Path, tmp_path: Path) -> Any:
    def name(*more: str, of: Path = data, root: Path = tmp_path) -> str:
        return tiny.plan(of, root, *more).folder.name

    return name


def test_a_run_name_depends_on_all_settings_of_the_result(names: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    name = names()
    result_settings = (
        "seed=1 architecture=moe size.n_layers=3 recipe=classic stage=code optimizer.weight_decay=0.2 schedule=cosine "
        "training.max_steps=7 training.eval_sequences=5 samples.seed=2 match=none runtime.precision=bf16 "
        "stage.stages.language.learning_rate_scale=0.5 +stage.stages.language.mixture.code=0.5 runtime.threads=2 "
        "training.document_masking=true recipe.tie_embeddings=true training.dropout=0.1 training.sampling=replacement"
    ).split()
    changed_names = [names(item) for item in result_settings]
    assert len({name, *changed_names}) == len(result_settings) + 1
    assert names(of=tiny.data_dir(tmp_path_factory, seed=1)) != name


def test_a_run_name_ignores_output_settings(
    names: Any, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = names()
    for same in (
        "tracking=wandb",
        "tracking.tags=[a]",
        "sweep_name=x",
        "launcher=joblib",
        "rerun=true",
        "sweep.retries=2",
        "evaluation.scripts=9",
    ):
        assert names(same) == name
    assert names(root=tmp_path / "elsewhere") == name
    link = tmp_path / "the same data"
    link.symlink_to(data)
    assert names(of=link) == name
    monkeypatch.chdir(data.parent)
    assert names(of=Path(data.name)) == name


def test_a_resumed_run_keeps_its_device(data: Path, tmp_path: Path) -> None:
    """The value of `auto` is determined once: the first attempt had one thread, so the second has one."""
    assert tiny.run(data, tmp_path, "training.max_steps=1", "runtime.threads=null") == 0
    folder = tiny.only_run(tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["runtime"]["threads"] = 1
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tiny.change_summary(folder, status="interrupted")
    assert tiny.run(data, tmp_path, "training.max_steps=1", "runtime.threads=null") == 0
    assert read_json(folder / "summary.json")["environment"]["threads"] == 1


@pytest.mark.slow
def test_a_resumed_run_keeps_its_micro_batch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise Interrupted(signal.SIGTERM)

    auto = ("training.max_steps=2", "training.micro_batch_size=auto")
    with monkeypatch.context() as patch:
        patch.setattr("src.runs.batch_size_finder.run_in_subprocess", interrupted)
        assert tiny.run(data, tmp_path, *auto) == 128 + signal.SIGTERM
    folder = tiny.only_run(tmp_path)
    assert not (folder / "config.yaml").exists(), "stopped while it tries, it has decided nothing"
    assert tiny.run(data, tmp_path, *auto) == 0
    assert "training.micro_batch_size=auto: 4 of 4 sequences at a time take " in capsys.readouterr().out

    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["training"]["micro_batch_size"] == 4
    config["training"]["micro_batch_size"] = 2
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    tiny.change_summary(folder, status="interrupted")
    assert tiny.run(data, tmp_path, *auto) == 0
    assert "auto" not in capsys.readouterr().out
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["training"]["micro_batch_size"] == 2


def test_defaults_compose_to_the_run_of_the_readme(data: Path) -> None:
    register_schema(TrainConfig, "train")
    config = compose_config(TrainConfig, "train", [])
    described = (config.architecture.name, config.size.name, config.recipe.name, config.stage.name, config.data.name)
    assert described == ("dense", "nano", "modern", "language", "embedded")
    assert (config.match, config.tokenizer.vocab_size, config.tracking.name) == ("active", 4096, "wandb")


def test_train_prepares_generated_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["data.language.max_bytes=200000", "data.code.max_bytes=200000", "tokenizer.vocab_size=300"]
    arguments = [*tiny.SETTINGS, f"output_root={tmp_path}", *small, "training.max_steps=1"]
    for _ in range(2):
        assert run_cli(lambda: train.main(arguments)) == 0
    out = capsys.readouterr().out
    assert out.count("packed tokens") == 2 and "Done already" in out
    floor = read_json(tiny.only_run(tmp_path) / "summary.json")["stages"]["language"]["references"]
    assert 0 < floor["floor_bits_per_byte"] < 8


def test_a_run_of_another_length_names_the_finished_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(data, tmp_path, "training.max_steps=1", "evaluation.enabled=false") == 0
    first = tiny.only_run(tmp_path)
    capsys.readouterr()
    assert tiny.run(data, tmp_path, "training.max_steps=2", "evaluation.enabled=false") == 0
    output = capsys.readouterr().out
    assert f"Another length of {first}, which is finished" in output and f"init_from={first}\n" in output
    assert tiny.run(data, tmp_path, "training.max_steps=2", "evaluation.enabled=false", "optimizer.eps=1e-7") == 0
    assert "Another length" not in capsys.readouterr().out


def test_a_run_of_the_same_length_is_not_another_length(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for precision in ("auto", "fp32"):  # the same on a CPU, in runs of different names
        arguments = "training.max_steps=1", "evaluation.enabled=false", f"runtime.precision={precision}"
        assert tiny.run(data, tmp_path, *arguments) == 0
    assert len(list(tmp_path.glob("runs/*"))) == 2
    assert "Another length" not in capsys.readouterr().out
