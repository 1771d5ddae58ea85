"""Evaluation of the last checkpoints: at the end of every run and by the evaluate command."""

import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src import evaluate
from src.cli.command import run_cli
from src.data.dataset import load_prepared
from src.data.tokenizer.bpe import load_tokenizer
from src.reporting import load_runs
from src.runs import final_evaluation, text_evaluation
from src.runtime.atomic_files import read_json
from tests.integration import tiny

SETTINGS = ("evaluation.probes=true", "evaluation.probe_sequences=2", "evaluation.scripts=3")


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run through both stages; read only."""
    root = tmp_path_factory.mktemp("evaluated")
    assert tiny.run(data, root, "stage=full", "architecture=mamba", *SETTINGS) == 0
    return tiny.only_run(root)


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the evaluated run that a test may change."""
    return Path(shutil.copytree(evaluated, tmp_path / "runs" / evaluated.name))


def run_evaluate(*arguments: str) -> int:
    return run_cli(lambda: evaluate.main(list(arguments)))


def evaluate_to_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run_evaluate(*arguments, "format=json", "device=cpu") == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_ends_with_a_complete_evaluation(evaluated: Path) -> None:
    evaluation = read_json(evaluated / "evaluation.json")
    assert list(evaluation["stages"]) == ["language", "code"] and evaluation["bash"] and evaluation["shellcheck"]
    for name, stage in evaluation["stages"].items():
        assert stage["corpus"] == name and stage["test"]["language"]["tokens"] % 32 == 0
        positions = stage["context"]["positions"]
        mean = np.average(positions["loss"], weights=positions["n"])
        assert mean == pytest.approx(stage["test"][name]["loss"], abs=1e-5)
        for corpus, loss_entry in stage["test"].items():
            documents = stage["documents"][corpus]
            assert sum(documents["nats"]) == pytest.approx(loss_entry["loss"] * loss_entry["tokens"], rel=1e-5)
            assert len(documents["first"]) == len(set(documents["first"])) == len(documents["bytes"]) > 1
            bits = sum(documents["nats"]) / math.log(2) / sum(documents["bytes"])
            assert bits == pytest.approx(loss_entry["bits_per_byte"], rel=1e-5)
        assert stage["beyond"]["to"][-1] == 4 * 32 and sum(stage["beyond"]["n"]) <= 4 * 32
        assert set(stage["probes"]) == {"copying", "induction", "recall"}
        assert stage["probes"]["copying"]["to"] == [16, 32], "as far as two training contexts hold"
    assert "scripts" not in evaluation["stages"]["language"]
    script_summary, scripts = (
        evaluation["stages"]["code"]["scripts"],
        read_json(evaluated / "samples" / "code-scripts.json"),
    )
    assert script_summary["n"] == len(scripts) == 3 * len({script["prompt"] for script in scripts})
    assert script_summary["valid"] == np.mean([script["valid"] for script in scripts])
    assert [script["seed"] for script in scripts[:3]] == [1, 2, 3] and len({script["text"] for script in scripts}) > 3
    assert all(script["text"].startswith(script["prompt"]) for script in scripts)


def test_losses_are_measured_on_the_test_split(evaluated: Path) -> None:
    evaluation, summary = read_json(evaluated / "evaluation.json"), read_json(evaluated / "summary.json")
    for name, stage in evaluation["stages"].items():
        val = summary["stages"][name]["val_loss"]
        assert stage["test"][name]["loss"] != val and stage["test"][name]["loss"] == pytest.approx(val, rel=0.1)
    (row,) = load_runs(evaluated).to_dict("records")
    assert row["test_loss"] == evaluation["stages"]["code"]["test"]["code"]["loss"]


def test_the_command_prints_the_evaluation_and_repeats_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old_evaluation = read_json(run / "evaluation.json")
    monkeypatch.setattr(final_evaluation, "build_model", None)  # no model may be loaded
    evaluation = evaluate_to_json(capsys, f"run={run}", *SETTINGS)
    final = old_evaluation["stages"]["code"]["test"]["code"]
    assert {key: evaluation[key] for key in ("loss", "bits_per_byte", "tokens")} == final
    assert evaluation["stages"] == old_evaluation["stages"] == read_json(run / "evaluation.json")["stages"]


def test_a_repeated_evaluation_is_equal(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old_evaluation = read_json(run / "evaluation.json")
    assert evaluate_to_json(capsys, f"run={run}", *SETTINGS, "rerun=true")["stages"] == old_evaluation["stages"]


def test_other_settings_repeat_the_evaluation(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = evaluate_to_json(
        capsys, f"run={run}", "evaluation.probes=false", "evaluation.scripts=0", "evaluation.context_factor=1"
    )
    assert not {"probes", "scripts", "beyond"} & set(evaluation["stages"]["code"])
    assert evaluation["settings"]["probes"] is False


def test_text_output_fits_one_page(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_evaluate(f"run={run}", *SETTINGS) == 0
    out = capsys.readouterr().out
    assert "After the code stage" in out and "copying, gain" in out and "6 generated scripts" in out
    assert out.rstrip().endswith(f"Evaluation: {run / 'evaluation.json'}")


def test_an_interrupted_evaluation_resumes(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = read_json(run / "evaluation.json")
    (run / "evaluation.json").unlink()
    tiny.change_summary(run, status="running")
    probes = text_evaluation.measure_probes

    def stop(*arguments: Any, **settings: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return probes(*arguments, **settings)

    arguments = ("stage=full", "architecture=mamba", *SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(text_evaluation, "measure_probes", stop)
        assert tiny.run(data, tmp_path, *arguments) == 128 + signal.SIGTERM
    assert "the same command goes on" in capsys.readouterr().err
    assert list(read_json(run / "evaluation.json")["stages"]) == ["language"]
    assert read_json(run / "summary.json")["status"] == "interrupted"
    assert tiny.run(data, tmp_path, *arguments) == 0
    assert read_json(run / "evaluation.json") == expected and read_json(run / "summary.json")["status"] == "done"


def test_other_data_is_an_error(
    run: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_evaluate(f"run={run}", f"data_dir={tiny.data_dir(tmp_path_factory, seed=1)}") == 2
    assert "but the run was trained on" in capsys.readouterr().err
    assert run_evaluate(f"run={run}", "data_dir=/nowhere") == 2
    assert "data_dir=/nowhere: no prepared data there" in capsys.readouterr().err


def test_a_run_without_a_finished_stage_is_an_error(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.change_summary(run, stages={})
    assert run_evaluate(f"run={run}") == 2
    assert "none of its stages is finished" in capsys.readouterr().err


@pytest.mark.slow
def test_learned_positions_limit_the_measured_context(data: Path, tmp_path: Path) -> None:
    assert tiny.run(data, tmp_path, "recipe=classic", "recipe.max_seq_len=64", "stage=code", *tiny.EVALUATION) == 0
    (stage,) = read_json(tiny.only_run(tmp_path) / "evaluation.json")["stages"].values()
    assert stage["beyond"]["to"][-1] == 64 and stage["probes"]["recall"]["to"] == [16, 32]


def test_samples_are_compared_with_all_training_text(data: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With all training corpora: after both stages a model can repeat stories of the first."""
    assert all(0 <= share <= 1 for share in read_json(run / "evaluation.json")["stages"]["language"]["samples"])
    prepared, tokenizer = load_prepared(data), load_tokenizer(run / "tokenizer.json")
    training_texts = [
        tokenizer.decode(prepared.tokens(corpus, "train")[:60].tolist()) for corpus in ("language", "code")
    ]
    texts = [{"prompt": "", "text": text} for text in [*training_texts, "zq" * 20]]
    (run / "samples" / "code.json").write_text(json.dumps(texts), encoding="utf-8")
    shares = evaluate_to_json(capsys, f"run={run}", "rerun=true", "evaluation.probes=false")["stages"]["code"][
        "samples"
    ]
    assert shares[0] > 0.8 and shares[1] > 0.8 and shares[2] == 0
