"""The command: round trips of a run, the code in its README, and no partial files after an error."""

import errno
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tokenizers import Tokenizer, normalizers

from src import export, generate
from src.cli.command import run_cli
from src.config.checks import check_settings
from src.config.schema import ROOT, SamplingConfig
from src.huggingface.imported_config import imported_config
from src.model.language_model import LanguageModel
from src.model.size_matching import match_config
from src.runtime.atomic_files import read_json
from src.runtime.records import DIGEST, write_record
from src.runtime.run_lock import acquire_run_lock
from src.training.checkpoint import save_checkpoint
from src.training.progress import Progress
from tests.huggingface.cases import (
    BLOCKS,
    CLASSIC,
    exported,
    load,
    model_of,
    open_transformers,
    spec_of,
    tokenizer_of,
    tokens_of,
)
from tests.integration import tiny

RECORD = "advanced_code_model.json"
MORE = ("training.max_steps=4", "optimizer.learning_rate=0.01", "samples.temperature=0.5")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    root = tmp_path_factory.mktemp("export")
    assert tiny.run(data, root, "architecture=hybrid", *MORE) == 0
    return tiny.only_run(root)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    out = tmp_path_factory.mktemp("folder") / "it's a model"
    assert run("format=huggingface", f"run={finished}", f"out={out}") == 0
    return out


def run(*arguments: str) -> int:
    return run_cli(lambda: export.main([*arguments]))


def run_failing_export(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command, check that it writes nothing, and return its error line."""
    out = Path(next(item for item in arguments if item.startswith("out="))[4:])
    before = sorted(out.parent.rglob("*")) if out.parent.exists() else []
    capsys.readouterr()
    assert run(*arguments) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("error: ") and output.err.count("\n") == 1
    assert (sorted(out.parent.rglob("*")) if out.parent.exists() else []) == before
    return output.err.removeprefix("error: ").rstrip("\n")


def text(place: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    arguments = [f"run={place}", "prompt=Once upon", "max_new_tokens=45", "temperature=0", "threads=1", "device=cpu"]
    capsys.readouterr()
    assert run_cli(lambda: generate.main([*arguments, *more])) == 0
    return capsys.readouterr().out


def test_export_round_trip(
    finished: Path, folder: Path, tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back = tmp_path / "back"
    capsys.readouterr()
    assert run("format=ours", f"source={folder}", f"out={back}") == 0
    assert capsys.readouterr().out == f"Export: {back}\n"
    for kind in ("best", "last"):
        ours = back / "checkpoints" / "language" / kind
        best = finished / "checkpoints" / "language" / "best"
        assert (ours / "model.safetensors").read_bytes() == (best / "model.safetensors").read_bytes()
        found, expected = (
            {**read_json(folder / "meta.json"), "metrics": None, "meta_sha256": None} for folder in (ours, best)
        )
        assert found == expected  # an export has no metrics.jsonl
    assert (back / "tokenizer.json").read_bytes() == (finished / "tokenizer.json").read_bytes()
    kept, written = (read_json(run / "summary.json") for run in (back, finished))
    assert kept == {key: value for key, value in written.items() if key != "command"} | {DIGEST: kept[DIGEST]}
    assert text(back, capsys) == text(finished, capsys)

    root = tmp_path / "on"
    go_on = [f"init_from={back}", "stage=code", f"output_root={root}", f"data.dir={data}", "tracking=none"]
    assert tiny.train_main([*go_on, "training.max_steps=2", "samples.max_new_tokens=4"]) == 0
    assert read_json(tiny.only_run(root) / "summary.json")["contract"]["init_from"].startswith("language step 4 of")


def test_an_export_omits_only_paths_of_the_configuration(finished: Path, folder: Path) -> None:
    ours = read_json(folder / RECORD)["config"]
    theirs = yaml.safe_load((finished / "config.yaml").read_text(encoding="utf-8"))
    theirs["data"] |= {"dir": Path(theirs["data"]["dir"]).name}
    for corpus in ("language", "code"):
        theirs["data"][corpus]["paths"] = []
    assert ours == theirs | {"output_root": "outputs"}
    for file in folder.iterdir():
        assert str(finished.parents[2]).encode() not in file.read_bytes(), file.name


def test_transformers_generates_the_same_text(
    finished: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = open_transformers(tmp_path_factory.getbasetemp() / "transformers")
    tokenizer, model = (
        transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True),
        load(transformers, folder),
    )
    import torch

    tokens = torch.tensor([tokenizer("Once upon").input_ids])
    found = model.generate(tokens, max_new_tokens=45, do_sample=False)
    assert tokenizer.decode(found[0], skip_special_tokens=True) + "\n" == text(finished, capsys)
    assert model.generation_config.temperature == 0.5


def test_the_code_of_the_model_card_runs(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_transformers(tmp_path_factory.getbasetemp() / "transformers")
    monkeypatch.chdir(folder.parent)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    capsys.readouterr()
    exec(code[0], {})
    assert capsys.readouterr().out.startswith("Once upon a time")
    assert "trust_remote_code=True" in code[0]
    (line,) = re.findall("python -m src.export .*", readme)
    assert shlex.split(line)[3:] == ["format=ours", "source=it's a model", "out=OUT"]


def test_the_model_card_has_the_figures_of_the_run(finished: Path, folder: Path) -> None:
    readme, summary = (folder / "README.md").read_text(encoding="utf-8"), read_json(finished / "summary.json")
    progress = read_json(finished / "checkpoints" / "language" / "best" / "meta.json")["progress"]
    assert f"| validation bits per byte | {progress['val_bits_per_byte']:.4f} |" in readme
    assert f"| last validation loss | {summary['final']['val_loss']:.4f} |" in readme
    assert f"| parameters | {summary['accounting']['total_params']:,} |" in readme
    assert summary["run"] in readme and "None" not in readme


@pytest.mark.parametrize("case", ["dense", "dense, classic", "moe"])
def test_a_plain_transformers_folder_is_imported(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = exported(tmp_path / "source", model_of(spec_of(case), seed=1))
    (source / RECORD).unlink()
    assert run("format=ours", f"source={source}", f"out={tmp_path / 'out'}") == 0
    first = text(tmp_path / "out", capsys)
    assert first == text(tmp_path / "out" / "checkpoints" / "imported" / "last", capsys) != "Once upon\n"
    assert first == text(tmp_path / "out", capsys, "cache=false")


def test_a_model_of_another_program_can_be_trained_on(folder: Path, data: Path, tmp_path: Path) -> None:
    """Without our record, the settings of the run follow from config.json."""
    source, back, root = tmp_path / "source", tmp_path / "back", tmp_path / "on"
    shutil.copytree(folder, source)
    (source / RECORD).unlink()
    assert run("format=ours", f"source={source}", f"out={back}") == 0
    go_on = [f"init_from={back}", "stage=code", f"output_root={root}", f"data.dir={data}", "tracking=none"]
    small = ["training.max_steps=2", "training.seq_len=32", "training.global_batch_size=2", "samples.max_new_tokens=4"]
    assert tiny.train_main([*go_on, *small, "training.micro_batch_size=2"]) == 0
    summary = read_json(tiny.only_run(root) / "summary.json")
    assert summary["contract"]["init_from"].startswith("imported step 0 of")
    assert summary["match"] == "none" and summary["architecture"] == "imported"


def test_a_folder_with_a_tokenizer_of_its_own_is_trained_on_and_exported(tmp_path: Path) -> None:
    """As published ones: more rows than tokens, another end of text, a normalizer, and settings of the tokenizer."""
    source, back, root, end = tmp_path / "source", tmp_path / "back", tmp_path / "root", "<|end_of_text|>"
    spec = spec_of("dense, grouped")
    exported(source, model_of(spec))
    (source / RECORD).unlink()
    tokenizer = Tokenizer.from_str(tokenizer_of(300).to_str())
    tokenizer.add_special_tokens(["<|begin_of_text|>", end])
    tokenizer.normalizer = normalizers.NFC()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.enable_truncation(50)
    (source / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    (source / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": end}}), encoding="utf-8")
    assert run("format=ours", f"source={source}", f"out={back}") == 0

    draw, texts = random.Random(0), tmp_path / "texts"
    texts.mkdir()
    for number in range(40):
        words = ("".join(draw.choices("bdfg aeiou lmnr", k=draw.randint(3, 9))) for _ in range(200))
        (texts / f"{number}.txt").write_text(" ".join(words), encoding="utf-8")
    go_on = [
        f"init_from={back}",
        f"data={texts}",
        f"output_root={root}",
        "tracking=none",
        "training.micro_batch_size=2",
    ]
    small = ["training.max_steps=2", "training.seq_len=32", "training.global_batch_size=2", "samples.max_new_tokens=4"]
    assert tiny.train_main([*go_on, *small]) == 0
    trained = tiny.only_run(root)
    assert (trained / "tokenizer.json").read_bytes() == (back / "tokenizer.json").read_bytes()
    assert read_json(trained / "summary.json")["model"]["vocab_size"] == spec.vocab_size > 302

    assert run("format=huggingface", f"run={trained}", f"out={tmp_path / 'again'}") == 0
    config = read_json(tmp_path / "again" / "config.json")
    assert (config["model_type"], config["num_key_value_heads"], config["eos_token_id"]) == ("llama", 2, 301)
    assert config["rope_parameters"]["rope_type"] == "llama3"


@pytest.mark.parametrize("case", BLOCKS)
def test_settings_of_an_imported_model_build_it_again(case: str) -> None:
    spec = spec_of(case, architecture="imported", norm_eps=1e-6, rope_theta=5e5, tie_embeddings=True)
    config = imported_config(spec)
    ours, again = model_of(spec), LanguageModel(match_config(config).spec)
    again.load_state_dict(ours.state_dict())
    tokens = tokens_of(spec, 1, 40)
    with torch.no_grad():
        assert torch.equal(ours.logits(tokens), again.logits(tokens))
    check_settings(config)


def bare_run(place: Path, spec: Any) -> Path:
    """Write a run directory that has a checkpoint and a tokenizer, and nothing else."""
    best = place / "checkpoints" / "language" / "best"
    save_checkpoint(best, model_of(spec), Progress("language", step=7), tokenizer_sha256="0" * 64, run="bare")
    (place / "tokenizer.json").write_text(tokenizer_of(spec.vocab_size).to_str(), encoding="utf-8")
    return place


def test_a_checkpoint_without_a_summary_is_exported(tmp_path: Path) -> None:
    best = bare_run(tmp_path / "bare", spec_of("mamba1")) / "checkpoints" / "language" / "best"
    assert run("format=huggingface", f"run={best}", f"out={tmp_path / 'out'}") == 0
    readme = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "step 7" in readme and "has no summary" in readme
    assert f"max_new_tokens={SamplingConfig().max_new_tokens})" in readme


def test_a_model_without_a_mapping_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = bare_run(tmp_path / "bare", spec_of("moe", **CLASSIC))
    line = run_failing_export(capsys, "format=huggingface", f"run={place}", f"out={tmp_path / 'new' / 'out'}")
    assert line.startswith(
        f"run={place}: no class of transformers computes the same; norm=layernorm: MixtralForCausalLM needs"
    )


def test_damaged_files_of_a_run_are_one_line_errors(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tokenizer.json", "config.yaml", "summary.json", "checkpoints/language/best/model.safetensors"):
        place = tmp_path / "run"
        shutil.copytree(finished, place)
        (place / name).write_bytes(b"\x80\x04 broken")
        line = run_failing_export(capsys, "format=huggingface", f"run={place}", f"out={tmp_path / 'new' / 'out'}")
        assert line.startswith(f"run={place / name}: "), line
        shutil.rmtree(place)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["format=onnx", "run=x"], "format=onnx: must be one of huggingface, gguf, ours"),
        (["run=x"], "format: is needed; write format=..."),
        (["format=huggingface"], "run: is needed; write run=DIR for format=huggingface"),
        (["format=huggingface", "run="], "run: is needed"),
        (["format=ours"], "source: is needed; write source=DIR for format=ours"),
        (
            ["format=ours", "source=x", "run=y"],
            "run: has no effect with format=ours, which reads source=DIR; leave it out",
        ),
        (["format=huggingface", "source=x", "run=y"], "source: has no effect with format=huggingface"),
        (["format=huggingface", "run=/no/such, run"], "run=/no/such, run: no such folder"),
        (["format=ours", "source=/no/such: ${x}"], "source=/no/such: ${x}: no such folder"),
        (["format=huggingface", "run=x", "size=tiny"], "size: no such setting"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_failing_export(capsys, *arguments, f"out={tmp_path / 'new' / 'out'}").startswith(wanted)


def test_an_export_overwrites_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["format=huggingface", f"run={finished}"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("x", encoding="utf-8")
    wanted = "already exists and is no export of this command; give a new path"
    assert run_failing_export(capsys, *command, f"out={tmp_path / 'full'}") == f"out={tmp_path / 'full'}: {wanted}"
    assert run_failing_export(capsys, *command, f"out={tmp_path / 'full' / 'mine'}").endswith(wanted)
    below = tmp_path / "full" / "mine" / "out"
    line = run_failing_export(capsys, *command, f"out={below}")
    assert "cannot be written" in line or "is not a writable folder" in line
    assert run(*command, "out=") == 2
    assert capsys.readouterr().err == "error: out: is empty; name what to write\n"
    (tmp_path / "empty").mkdir()
    assert run(*command, f"out={tmp_path / 'empty'}") == 0


def files_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_a_repeated_export_succeeds_and_another_is_an_error(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, back = tmp_path / "out", tmp_path / "back"
    kept = tmp_path / "out.old"
    kept.mkdir()
    (kept / "mine").write_text("x", encoding="utf-8")
    for command in (
        ["format=huggingface", f"run={finished}", f"out={out}"],
        ["format=ours", f"source={out}", f"out={back}"],
    ):
        assert run(*command) == 0
        place = Path(command[2][4:])
        before = files_of(place)
        capsys.readouterr()
        assert run(*command) == 0 and capsys.readouterr().out == f"Export: {place}\n"
        assert files_of(place) == before
    for place, name, command in (
        (out, "README.md", ["format=huggingface", f"run={finished}"]),
        (back, "tokenizer.json", ["format=ours", f"source={out}"]),
    ):
        (place / name).write_text("changed", encoding="utf-8")
        if place == out:
            assert "already exists and is no export" in run_failing_export(capsys, *command, f"out={place}")
        else:
            assert run(*command, f"out={place}") == 2
    assert (kept / "mine").exists() and sorted(path.name for path in tmp_path.iterdir()) == ["back", "out", "out.old"]


KILL_AT = """
import os, sys
from src.runtime import atomic_files
from src import export
from src.cli.command import run_cli

count, last = 0, int(sys.argv[1])

def step(event, arguments):
    global count
    if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and ".tmp" in str(arguments[0]):
        count += 1
        if count == last:
            os._exit(9)

sys.addaudithook(step)
sys.exit(run_cli(lambda: export.main(sys.argv[2:])))
"""


@pytest.mark.slow
def test_a_killed_export_can_be_repeated(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["format=huggingface", f"run={finished}", f"out={out}"]
    for at in (1, 2, 5, 9, 14, 20, 10_000):
        code = subprocess.run([sys.executable, "-c", KILL_AT, str(at), *command], cwd=ROOT, check=False).returncode
        assert code in (0, 9)
        assert run(*command) == 0
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        shutil.rmtree(out)


def test_temporaries_of_a_killed_export_are_removed(finished: Path, tmp_path: Path) -> None:
    left = tmp_path / ".out.99999999.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"x")
    assert run("format=huggingface", f"run={finished}", f"out={tmp_path / 'out'}") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_is_one_line_and_leaves_no_files(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("src.huggingface.export_model.write_tensors", fill)
    line = run_failing_export(capsys, "format=huggingface", f"run={finished}", f"out={tmp_path / 'out'}")
    assert line == "disk: No space left on device; make room"


def test_the_card_of_an_unfinished_run_states_it(finished: Path, tmp_path: Path) -> None:
    place = tmp_path / "run"
    shutil.copytree(finished, place)
    summary = read_json(place / "summary.json")
    write_record(place / "summary.json", summary | {"status": "running"})
    command = ["format=huggingface", f"run={place}"]
    assert run(*command, f"out={tmp_path / 'killed'}") == 0
    readme = (tmp_path / "killed" / "README.md").read_text(encoding="utf-8")
    assert "| status of the run | interrupted (its process was killed) |" in readme
    assert read_json(tmp_path / "killed" / RECORD)["summary"]["status"] == "running"
    with acquire_run_lock(place):
        assert run(*command, f"out={tmp_path / 'alive'}") == 0
    readme = (tmp_path / "alive" / "README.md").read_text(encoding="utf-8")
    assert "| status of the run | running |" in readme


def test_control_characters_of_a_source_do_not_reach_the_terminal(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    odd = "\x1b]0;x\x07\x1b[31m\nsecond line"
    changes = {
        "config.json": [{odd: 1}, {"model_type": odd}],
        RECORD: [{"run": odd}, {"progress": {"stage": odd}}, {"config": {odd: odd}}, {"spec": {odd: 1}}],
        "tokenizer_config.json": [{"eos_token": odd}],
    }
    for name, each in changes.items():
        whole = (source / name).read_text(encoding="utf-8")
        for change in each:
            (source / name).write_text(json.dumps(json.loads(whole) | change), encoding="utf-8")
            assert run("format=ours", f"source={source}", f"out={tmp_path / 'out'}") == 2
            output = capsys.readouterr()
            assert output.err.count("\n") == 1 and not {"\x1b", "\x07"} & {*output.err, *output.out}
        (source / name).write_text(whole, encoding="utf-8")


def test_an_export_has_the_marker_of_the_command() -> None:
    assert export.MARKERS == {"huggingface": RECORD, "ours": "checkpoints"}


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"progress": None}, "progress: not the progress of a stage"),
        ({"progress": {"stage": "language", "more": 1}}, "progress: not the progress of a stage"),
        ({"progress": {"stage": "language", "step": "1"}}, "progress.step='1': must be a number"),
        ({"progress": {"stage": "language", "step": float("nan")}}, "holds numbers that are not finite"),
        ({"progress": {"stage": "../../../executed"}}, "stage='../../../executed': not usable as the name of a folder"),
        ({"progress": {"stage": "other"}}, "stage=other: not a stage of its config, ['language']"),
        ({"run": 1}, "run: must be a name"),
        ({"run": "a\x1b[31m"}, "run: must be a name"),
        ({"progress": {"stage": "language", "step": 10**30}}, "progress.step=1000000000"),
        ({"post_processor": "nul"}, "post_processor: not valid for a tokenizer"),
        ({"summary": []}, "summary: not the summary of a run"),
        ({"summary": {"contract": 1}}, "summary: not the summary of a run"),
        ({"config": []}, "not the configuration of a run"),
        ({"config": {"seed": "x"}}, "not the configuration of a run"),
        ({"config": {"seed": "${oc.env:HOME}"}}, "not the configuration of a run"),
        ({"config": {"more": 1}}, "not the configuration of a run"),
        ({"config": {"tokenizer": {"name": "x", "vocab_size": 9}}}, "not the configuration of a run"),
        ({"tokenizer_sha256": "0" * 64}, "tokenizer.json: not the tokenizer that these weights were trained with"),
        ({"tokenizer_sha256": None}, "tokenizer.json: not the tokenizer that these weights were trained with"),
    ],
)
def test_a_manipulated_record_is_an_error(
    changes: dict[str, Any], wanted: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    shutil.copytree(folder, source)
    values = json.loads((source / RECORD).read_text(encoding="utf-8"))
    (source / RECORD).write_text(json.dumps(values | changes), encoding="utf-8")
    line = run_failing_export(capsys, "format=ours", f"source={source}", f"out={tmp_path / 'new' / 'out'}")
    assert line.startswith(f"source={source}/") and wanted in line, line


def test_every_mapping_has_a_test_case() -> None:
    from src.huggingface.mappings import MAPPINGS

    assert {mapping.class_name for mapping in MAPPINGS.values()} == {name for name, _, _ in BLOCKS.values()}


@pytest.mark.slow
def test_gguf_of_a_run_with_its_modelfile(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tiny.run(data, tmp_path, "architecture=dense", *MORE) == 0
    trained = tiny.only_run(tmp_path)
    out = tmp_path / "gguf" / "my model.gguf"
    capsys.readouterr()
    assert run("format=gguf", f"run={trained}", f"out={out}", "dtype=f16") == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0] == f"Export: {out}"
    assert "note: llama.cpp does not have the pattern" in shown.err and "ollama create 'my model' -f" in shown.err
    assert {file.name for file in out.parent.iterdir()} == {"my model.gguf", "my model.Modelfile"}
    assert "FROM ./my model.gguf" in out.with_suffix(".Modelfile").read_text()
    content = out.read_bytes()
    assert run("format=gguf", f"run={trained}", f"out={out}", "dtype=f16") == 0
    assert out.read_bytes() == content
    assert "already exists" in run_failing_export(capsys, "format=gguf", f"run={trained}", f"out={out}")
