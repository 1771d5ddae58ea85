"""Evaluation: at the end of every run, again by its command, and never on anything but the last checkpoints."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import evaluate
from src.cli.compose import run_cli
from src.data.dataset import load_prepared
from src.data.tokenizer.bpe import load_tokenizer
from src.reporting import load_runs
from src.runs import final_evaluation
from src.runtime.atomic_files import read_json
from tests.integration import tiny


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run through both stages; read only."""
    root = tmp_path_factory.mktemp("evaluated")
    assert tiny.run(data, root, "stage=full", "architecture=mamba", "evaluation.scripts=3") == 0
    return tiny.only_run(root)


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(evaluated, tmp_path / "runs" / evaluated.name))


def command(*arguments: str) -> int:
    return run_cli(lambda: evaluate.main(list(arguments)))


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert command(*arguments, "format=json", "device=cpu") == 0
    return json.loads(capsys.readouterr().out)


SAME = ("evaluation.probe_sequences=2", "evaluation.scripts=3")


def test_a_run_ends_with_all_of_it(evaluated: Path) -> None:
    found = read_json(evaluated / "evaluation.json")
    assert list(found["stages"]) == ["language", "code"] and found["bash"] and found["shellcheck"]
    for name, stage in found["stages"].items():
        assert stage["corpus"] == name and stage["test"]["language"]["tokens"] % 32 == 0
        positions = stage["context"]["positions"]
        mean = np.average(positions["loss"], weights=positions["n"])
        assert mean == pytest.approx(stage["test"][name]["loss"], abs=1e-5)
        for corpus, whole in stage["test"].items():
            documents = stage["documents"][corpus]
            assert sum(documents["nats"]) == pytest.approx(whole["loss"] * whole["tokens"], rel=1e-5)
            assert len(documents["first"]) == len(set(documents["first"])) == len(documents["bytes"]) > 1
            bits = sum(documents["nats"]) / math.log(2) / sum(documents["bytes"])
            assert bits == pytest.approx(whole["bits_per_byte"], rel=1e-5)
        assert stage["beyond"]["to"][-1] == 4 * 32 and sum(stage["beyond"]["n"]) <= 4 * 32
        assert set(stage["probes"]) == {"copying", "induction", "recall"}
        assert stage["probes"]["copying"]["to"] == [16, 32], "as far as two training contexts hold"
    assert "scripts" not in found["stages"]["language"]
    summed, scripts = found["stages"]["code"]["scripts"], read_json(evaluated / "samples" / "code-scripts.json")
    assert summed["n"] == len(scripts) == 3 * len({script["prompt"] for script in scripts})
    assert summed["valid"] == np.mean([script["valid"] for script in scripts])
    assert [script["seed"] for script in scripts[:3]] == [1, 2, 3] and len({script["text"] for script in scripts}) > 3
    assert all(script["text"].startswith(script["prompt"]) for script in scripts)


def test_the_losses_are_those_of_the_test_split(evaluated: Path) -> None:
    found, summary = read_json(evaluated / "evaluation.json"), read_json(evaluated / "summary.json")
    for name, stage in found["stages"].items():
        val = summary["stages"][name]["val_loss"]
        assert stage["test"][name]["loss"] != val and stage["test"][name]["loss"] == pytest.approx(val, rel=0.1)
    (row,) = load_runs(evaluated).to_dict("records")
    assert row["test_loss"] == found["stages"]["code"]["test"]["code"]["loss"]


def test_the_command_prints_the_evaluation_and_repeats_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_json(run / "evaluation.json")
    monkeypatch.setattr(final_evaluation, "build_model", None)  # nothing is to be loaded
    found = told(capsys, f"run={run}", *SAME)
    own = before["stages"]["code"]["test"]["code"]
    assert {key: found[key] for key in ("loss", "bits_per_byte", "tokens")} == own
    assert found["stages"] == before["stages"] == read_json(run / "evaluation.json")["stages"]


def test_a_repeated_evaluation_is_equal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_json(run / "evaluation.json")
    assert told(capsys, f"run={run}", *SAME, "rerun=true")["stages"] == before["stages"]


def test_other_settings_repeat_the_evaluation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = told(capsys, f"run={run}", "evaluation.probes=false", "evaluation.scripts=0", "evaluation.context_factor=1")
    assert not {"probes", "scripts", "beyond"} & set(found["stages"]["code"])
    assert found["settings"]["probes"] is False


def test_it_is_a_page_of_text(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(f"run={run}", *SAME) == 0
    out = capsys.readouterr().out
    assert "After the code stage" in out and "copying, gain" in out and "6 generated scripts" in out
    assert out.rstrip().endswith(f"Evaluation: {run / 'evaluation.json'}")


def test_an_interrupted_evaluation_resumes(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = read_json(run / "evaluation.json")
    (run / "evaluation.json").unlink()
    tiny.change_summary(run, status="running")
    probes = final_evaluation.measure_probes

    def stop(*arguments: Any, **settings: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return probes(*arguments, **settings)

    arguments = ("stage=full", "architecture=mamba", "evaluation.scripts=3")
    with monkeypatch.context() as patch:
        patch.setattr(final_evaluation, "measure_probes", stop)
        assert tiny.run(data, tmp_path, *arguments) == 128 + signal.SIGTERM
    assert "the same command goes on" in capsys.readouterr().err
    assert list(read_json(run / "evaluation.json")["stages"]) == ["language"]
    assert read_json(run / "summary.json")["status"] == "interrupted"
    assert tiny.run(data, tmp_path, *arguments) == 0
    assert read_json(run / "evaluation.json") == wanted and read_json(run / "summary.json")["status"] == "done"


def test_other_data_is_an_error(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(f"run={run}", f"data_dir={tiny.data_dir(tmp_path_factory, seed=1)}") == 2
    assert "but the run was trained on" in capsys.readouterr().err
    assert command(f"run={run}", "data_dir=/nowhere") == 2
    assert "data_dir=/nowhere: no prepared data there" in capsys.readouterr().err


def test_a_run_without_a_finished_stage_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.change_summary(run, stages={})
    assert command(f"run={run}") == 2
    assert "none of its stages is finished" in capsys.readouterr().err


def test_learned_positions_limit_the_measured_context(data: Path, tmp_path: Path) -> None:
    assert tiny.run(data, tmp_path, "recipe=classic", "recipe.max_seq_len=64", "stage=code") == 0
    (stage,) = read_json(tiny.only_run(tmp_path) / "evaluation.json")["stages"].values()
    assert stage["beyond"]["to"][-1] == 64 and stage["probes"]["recall"]["to"] == [16, 32]


def test_samples_are_compared_with_all_training_text(data: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of either corpus: a run through both stages can repeat the stories of the first."""
    assert all(0 <= share <= 1 for share in read_json(run / "evaluation.json")["stages"]["language"]["samples"])
    prepared, tokenizer = load_prepared(data), load_tokenizer(run / "tokenizer.json")
    copied = [tokenizer.decode(prepared.tokens(corpus, "train")[:60].tolist()) for corpus in ("language", "code")]
    texts = [{"prompt": "", "text": text} for text in [*copied, "zq" * 20]]
    (run / "samples" / "code.json").write_text(json.dumps(texts), encoding="utf-8")
    shares = told(capsys, f"run={run}", "rerun=true", "evaluation.probes=false")["stages"]["code"]["samples"]
    assert shares[0] > 0.8 and shares[1] > 0.8 and shares[2] == 0
