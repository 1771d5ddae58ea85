"""A stage that starts from a finished run: inherited settings, contradicting settings, and its contract."""

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from src.runtime.atomic_files import read_json
from tests.integration import tiny
from tests.training.test_checkpoint import update_checksums

SOURCE = ("size.d_model=128", "training.seq_len=48", "optimizer.weight_decay=0.05", "seed=3", "recipe=classic")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Path]:
    """Language runs of two architectures with settings that are not the defaults; read only."""
    found = {}
    for architecture in ("dense", "moe"):
        root = tmp_path_factory.mktemp(architecture)
        assert tiny.run(data, root, *SOURCE, "training.max_steps=2", f"architecture={architecture}") == 0
        found[architecture] = tiny.only_run(root)
    return found


def train_code_from(source: Path, root: Path, *more: str) -> int:
    """Train stage code from a run."""
    command = [f"init_from={source}", "stage=code", f"output_root={root}", "tracking=none", "samples.max_new_tokens=4"]
    return tiny.train_main([*command, *more])


def read_config(root: Path) -> dict[str, Any]:
    return yaml.safe_load((tiny.only_run(root) / "config.yaml").read_text(encoding="utf-8"))


def test_a_stage_inherits_the_settings_of_its_source_run(sources: dict[str, Path], tmp_path: Path) -> None:
    assert train_code_from(sources["moe"], tmp_path) == 0
    folder = tiny.only_run(tmp_path)
    assert folder.name.startswith("moe-nano-code-s0-")
    own_contract, source_contract = (
        read_config(tmp_path),
        yaml.safe_load((sources["moe"] / "config.yaml").read_text(encoding="utf-8")),
    )
    for section in "architecture size recipe tokenizer match data training optimizer schedule".split():
        assert own_contract[section] == source_contract[section], section
    assert (own_contract["stage"]["name"], own_contract["seed"]) == ("code", 0)
    log = (folder / "train.log").read_text(encoding="utf-8")
    assert "after 2 steps of stage language" in log and sources["moe"].name in log


@pytest.mark.slow
def test_a_setting_newer_than_the_source_run_has_its_default(sources: dict[str, Path], tmp_path: Path) -> None:
    older = tmp_path / "older"
    shutil.copytree(sources["dense"], older)
    config = yaml.safe_load((older / "config.yaml").read_text(encoding="utf-8"))
    del config["training"]["document_masking"]
    (older / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert train_code_from(older, tmp_path, "training.max_steps=1") == 0
    assert read_config(tmp_path)["training"]["document_masking"] is False


def test_training_starts_from_the_weights_of_the_source_run(sources: dict[str, Path], tmp_path: Path) -> None:
    more = ("optimizer.learning_rate=1e-30", "optimizer.weight_decay=0", "training.max_steps=1")
    assert train_code_from(sources["dense"], tmp_path, *more) == 0
    file = Path("checkpoints", "{}", "last", "model.safetensors")
    before = load_file(sources["dense"] / str(file).format("language"))
    after = load_file(tiny.only_run(tmp_path) / str(file).format("code"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    "given",
    [
        ["training.max_steps=1", "optimizer.weight_decay=0.2", "schedule=wsd", "training.seq_len=24"],
        pytest.param(
            ["architecture=moe", "recipe=classic", "size.d_model=128", "training.max_steps=1"], marks=pytest.mark.slow
        ),
        pytest.param(
            ["training.log_every=10", "training.eval_every=null", "training.max_steps=1"], marks=pytest.mark.slow
        ),
    ],
)
def test_overrides_replace_inherited_settings(given: list[str], sources: dict[str, Path], tmp_path: Path) -> None:
    assert train_code_from(sources["moe"], tmp_path, *given) == 0
    config = read_config(tmp_path)
    for item in given:
        key, value = item.split("=")
        found: Any = config
        for part in key.split("."):
            found = found[part]
        assert (found["name"] if isinstance(found, dict) else found) == yaml.safe_load(value)
    assert config["training"]["global_batch_size"] == 4


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("architecture=mamba", "architecture.name=mamba: contradicts init_from="),
        ("architecture=dense", "architecture.name=dense: contradicts init_from="),
        ("architecture.n_experts=4", "architecture.n_experts=4: contradicts init_from="),
        ("size=micro", "size.name=micro: contradicts init_from="),
        ("size.d_model=192", "size.d_model=192: contradicts init_from="),
        ("recipe=modern", "recipe.name=modern: contradicts init_from="),
        ("tokenizer.vocab_size=600", "tokenizer.vocab_size=600: contradicts init_from="),
        ("match=none", "match=none: contradicts init_from="),
    ],
)
def test_overrides_that_contradict_the_weights_are_errors(
    override: str, expected: str, sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_code_from(sources["moe"], tmp_path / "new", override) == 2
    err = capsys.readouterr().err
    assert expected in err and err.strip().endswith("leave it out") and err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_data_with_another_tokenizer_is_an_error(
    sources: dict[str, Path], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = tiny.data_dir(tmp_path_factory, seed=1)
    assert train_code_from(sources["dense"], tmp_path / "new", f"data.dir={other}") == 2
    err = capsys.readouterr().err
    assert "its weights have another tokenizer than" in err and "data.dir=" in err
    assert not (tmp_path / "new").exists()


def test_new_text_is_prepared_with_the_tokenizer_of_the_weights(sources: dict[str, Path], tmp_path: Path) -> None:
    """The text of the run is found by its folder, changed text by its settings; a repetition finds it prepared."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    draw = random.Random(0)
    for number in range(100):
        (scripts / f"{number}.sh").write_text(tiny.write_script(draw), encoding="utf-8")
    for _ in range(2):
        assert train_code_from(sources["dense"], tmp_path, f"data={scripts}", "training.max_steps=1") == 0
    folder, (prepared,) = tiny.only_run(tmp_path), tuple((tmp_path / "data").glob("[!.]*"))
    contract = read_json(folder / "summary.json")["contract"]
    assert contract["tokenizer_hash"] == read_json(sources["dense"] / "summary.json")["contract"]["tokenizer_hash"]
    assert [path.name for path in sorted(prepared.glob("*_train.npy"))] == ["code_train.npy"]


def test_init_from_accepts_a_checkpoint_folder(sources: dict[str, Path], tmp_path: Path) -> None:
    last = sources["dense"] / "checkpoints" / "language" / "last"
    assert train_code_from(last, tmp_path, "training.max_steps=1") == 0
    assert train_code_from(sources["dense"], tmp_path, "training.max_steps=1") == 0
    tiny.only_run(tmp_path)  # the same weights: the same run


def test_other_initial_weights_give_another_run_name(sources: dict[str, Path], tmp_path: Path) -> None:
    best = sources["dense"] / "checkpoints" / "language" / "best"
    other = tmp_path / "other"
    shutil.copytree(sources["dense"], other)
    weights = other / "checkpoints" / "language" / "last" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    update_checksums(weights.parent)
    for source in (sources["dense"], other):
        assert train_code_from(source, tmp_path / "out", "training.max_steps=1") == 0
    assert len(list((tmp_path / "out" / "runs").iterdir())) == 2
    assert best.exists()


def test_a_moved_run_is_a_valid_source(sources: dict[str, Path], tmp_path: Path, data: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(sources["dense"], moved)
    config = yaml.safe_load((moved / "config.yaml").read_text(encoding="utf-8"))
    config["data"]["dir"] = "/nowhere/data"
    (moved / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert train_code_from(moved, tmp_path / "out", f"data.dir={data}", "training.max_steps=1") == 0


@pytest.mark.slow
def test_the_lineage_in_the_contract_is_independent_of_the_architecture(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    lineages = set()
    for architecture, source in sources.items():
        assert train_code_from(source, tmp_path / architecture, "training.max_steps=1") == 0
        contract = read_json(tiny.only_run(tmp_path / architecture) / "summary.json")["contract"]
        lineages.add(contract["init_from"])
    assert len(lineages) == 1
    assert lineages.pop().startswith("language step 2 of contract ")


def test_a_source_run_without_config_is_an_error(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(sources["dense"] / "checkpoints", tmp_path / "bare" / "checkpoints")
    assert train_code_from(tmp_path / "bare", tmp_path / "new") == 2
    assert "config.yaml is missing; give a run directory of src.train" in capsys.readouterr().err


def test_text_to_download_names_the_tokenizer_of_the_weights(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_code_from(sources["dense"], tmp_path / "new", "data=tinystories_bash") == 2
    line = capsys.readouterr().err
    assert f"prepare data=tinystories_bash with the same settings (tokenizer.path={sources['dense']})" in line
    assert line.count("\n") == 1 and not (tmp_path / "new").exists()


def test_new_text_for_a_character_tokenizer_is_an_error_before_it_is_prepared(
    sources: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "characters"
    shutil.copytree(sources["dense"], source)
    config = yaml.safe_load((source / "config.yaml").read_text(encoding="utf-8"))
    config["tokenizer"]["kind"] = "characters"
    (source / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert train_code_from(source, tmp_path / "new", "data.seed=1") == 2
    line = capsys.readouterr().err
    assert "has tokenizer=characters, which has only the characters of its own text" in line
    assert line.count("\n") == 1 and not (tmp_path / "new").exists()
