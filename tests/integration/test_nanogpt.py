"""The settings of nanoGPT's CPU run on Shakespeare reproduce its loss; a small version of the recipe runs end to end.

The text is not part of this repository. The environment variable ACM_SHAKESPEARE names the file:
data/tinyshakespeare/input.txt of the repository karpathy/char-rnn. The run takes about five minutes on one core.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import yaml

from src import evaluate, export, generate
from src.cli.command import run_cli
from src.config.schema import CONF, ROOT, CorpusConfig, DataConfig, TokenizerConfig, UserError
from src.data.preparation.prepare import find_prepared, prepare_data
from src.runtime.atomic_files import file_sha256, read_json
from src.training.checkpoint import read_checkpoint
from tests.integration import tiny

TEXT = os.environ.get("ACM_SHAKESPEARE")
NANOGPT_LOSS, TOLERANCE = 1.8935, 0.02
"""Nats a character over all windows of the validation text, by nanoGPT's own program after its CPU run. Its README says
1.88, and that run printed 1.8808: the mean of 20 random batches, which has a standard deviation of 0.018."""


@pytest.mark.slow
@pytest.mark.skipif(TEXT is None, reason="ACM_SHAKESPEARE does not name the text (see the top of this file)")
def test_the_nanogpt_recipe_reaches_its_published_loss(tmp_path: Path) -> None:
    def run(module: str, *arguments: str) -> str:
        command = [sys.executable, "-m", module, *arguments, f"output_root={tmp_path}"]
        done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=3600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("src.prepare", "data=shakespeare", f"data.language.paths=[{TEXT}]")
    run("src.train", "+experiment=nanogpt_shakespeare", "runtime=cpu", "runtime.threads=1", "tracking=none")
    final = read_json(tiny.only_run(tmp_path) / "summary.json")["stages"]["language"]
    print(f"validation loss {final['val_loss']:.4f}")
    assert final["steps"] == 2000
    assert final["val_loss"] == pytest.approx(NANOGPT_LOSS, abs=TOLERANCE)


def write_one_document(folder: Path) -> Path:
    """Write stories into one file, as one document."""
    draw = Random(0)
    file = folder / "input.txt"
    file.write_text("\n\n".join(tiny.write_story(draw) for _ in range(60)), encoding="utf-8")
    return file


def shakespeare(file: Path, sha256: str | None = None) -> DataConfig:
    """Read conf/data/shakespeare.yaml and replace its text."""
    values = yaml.safe_load((CONF / "data" / "shakespeare.yaml").read_text())
    del values["defaults"]
    values["language"] |= {"paths": [str(file)], "sha256": sha256 or file_sha256(file)}
    return DataConfig(**values | {name: CorpusConfig(**values[name]) for name in ("language", "code")})


CHARACTERS = TokenizerConfig("characters", 256, kind="characters")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return prepare_data(shakespeare(write_one_document(tmp_path)), CHARACTERS, tmp_path, log=lambda line: None).folder


def test_text_with_another_checksum_is_an_error(tmp_path: Path) -> None:
    file = write_one_document(tmp_path)
    with pytest.raises(UserError, match=r"input\.txt\]: has SHA-256 \w{64}, not data\.language\.sha256=0+; give that"):
        prepare_data(shakespeare(file, "0" * 64), CHARACTERS, tmp_path / "outputs")
    several = shakespeare(file)
    several.language.paths.append(str(ROOT / "README.md"))
    with pytest.raises(UserError, match=r"data\.language\.sha256 is for one file; name that file"):
        prepare_data(several, CHARACTERS, tmp_path / "outputs")
    assert not list((tmp_path / "outputs").rglob("manifest.json"))


def test_the_text_is_found_without_its_path(prepared: Path, tmp_path: Path) -> None:
    settings = shakespeare(tmp_path / "input.txt")
    settings.language.paths = []
    found = find_prepared(settings, CHARACTERS, tmp_path)
    assert found is not None and found.folder == prepared
    assert find_prepared(replace(settings, val_fraction=0.2), CHARACTERS, tmp_path) is None


@pytest.mark.slow
def test_a_small_version_of_the_recipe_resumes_and_generates(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole recipe except the size: it resumes bit-identically, is evaluated, and generates text."""
    kept = {"training.global_batch_size", "training.micro_batch_size", "training.seq_len", "samples.max_new_tokens"}
    more = [item for item in tiny.SETTINGS if item.split("=")[0] not in kept]
    arguments = ["+experiment=nanogpt_shakespeare", f"data.dir={prepared}", *more, "training.eval_sequences=8"]
    arguments += ["size.d_model=64", "training.dropout=0.1", "schedule.warmup_steps=2"]
    arguments = list({item.split("=", 1)[0]: item for item in arguments}.values())
    uninterrupted, interrupted = tmp_path / "whole", tmp_path / "broken"
    assert tiny.train_main([*arguments, f"output_root={uninterrupted}"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        tiny.break_step(patch, 5)
        with pytest.raises(RuntimeError, match="on fire"):
            tiny.train_main([*arguments, f"output_root={interrupted}"])
    assert tiny.train_main([*arguments, f"output_root={interrupted}"]) == 0
    assert tiny.hash_weights(uninterrupted) == tiny.hash_weights(interrupted)

    run = tiny.only_run(uninterrupted)
    assert "does not fill a window: only its validation loss is reported" in capsys.readouterr().out
    summary = read_json(run / "summary.json")
    assert summary["stages"]["language"]["val_bits_per_byte"] is not None
    assert summary["contract"]["training.dropout"] == 0.1
    spec = read_checkpoint(run / "checkpoints" / "language" / "last").spec
    assert spec.tie_embeddings and spec.vocab_size < 80
    assert run_cli(lambda: evaluate.main([f"run={run}", "device=cpu", "rerun=true"])) == 0
    capsys.readouterr()
    assert run_cli(lambda: generate.main([f"run={run}", "prompt=Tom", "max_new_tokens=8", "device=cpu"])) == 0
    assert len(capsys.readouterr().out) == len("Tom") + 8 + len("\n")
    assert run_cli(lambda: generate.main([f"run={run}", "prompt=Töm", "max_new_tokens=8", "device=cpu"])) == 2
    assert "the tokenizer has no token for the character '\\xf6'" in capsys.readouterr().err


@pytest.mark.slow
def test_character_model_with_tied_head_export_round_trip(prepared: Path, tmp_path: Path) -> None:
    tied = ("recipe.tie_embeddings=true", "training.sampling=replacement")
    assert tiny.run(prepared, tmp_path / "outputs", *tied) == 0
    run = tiny.only_run(tmp_path / "outputs")
    out, back = tmp_path / "exported", tmp_path / "back"
    assert run_cli(lambda: export.main(["format=huggingface", f"run={run}", f"out={out}"])) == 0
    assert read_json(out / "config.json")["tie_word_embeddings"] is True
    assert run_cli(lambda: export.main(["format=ours", f"source={out}", f"out={back}"])) == 0
    assert (back / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()
    original, loaded = (read_checkpoint(each / "checkpoints" / "language" / "best") for each in (run, back))
    assert original.spec == loaded.spec
    assert original.sha256["model.safetensors"] == loaded.sha256["model.safetensors"]
    again = tmp_path / "again"
    assert tiny.train_main([f"init_from={run}", f"data.dir={prepared}", f"output_root={again}", "tracking=none"]) == 0


def test_a_prompt_with_an_unknown_character_is_an_error_before_training(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.run(prepared, tmp_path / "outputs", "stage.stages.language.prompts=['#!/bin/bash']") == 2
    assert "error: stage.stages.language.prompts: '#!/bin/bash': the tokenizer has no token" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
