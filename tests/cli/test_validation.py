"""Validation: every invalid configuration gives one line that names key, value and remedy."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from src.cli.compose import compose_config, register_schema
from src.cli.validation import check_writable, validate
from src.config.schema import CorpusConfig, HygieneConfig, StageConfig, TrainConfig, UserError
from src.runtime import host
from src.runtime.host import RankInfo


@cache
def compose_base(architecture: str) -> TrainConfig:
    register_schema(TrainConfig, "train")
    return compose_config(TrainConfig, "train", [f"architecture={architecture}"])


def change_config(architecture: str = "dense", **values: Any) -> TrainConfig:
    """Replace values by dotted key, written with __ for the dot."""
    config = compose_base(architecture)
    for key, value in values.items():
        section, _, name = key.partition("__")
        new = replace(getattr(config, section), **{name: value}) if name else value
        config = replace(config, **{section: new})
    return config


def validation_error(config: TrainConfig) -> str:
    with pytest.raises(UserError) as caught:
        validate(config)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["optimizer.learning_rate", "optimizer.weight_decay", "samples.temperature"])
def test_numbers_are_finite(key: str, value: float) -> None:
    assert (
        validation_error(change_config("dense", **{key.replace(".", "__"): value}))
        == f"{key}={value}: must be a finite number"
    )


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("dense", {"match": "time"}, "match=time: must be one of active, total, flops, none"),
    ("dense", {"recipe__norm": "batchnorm"}, "recipe.norm=batchnorm: must be one of rmsnorm, layernorm"),
    ("dense", {"schedule__name": "step"}, "schedule.name=step: must be one of cosine, linear, wsd"),
    ("dense", {"runtime__device": "gpu"}, "runtime.device=gpu: must be one of auto, mps, cuda, cpu"),
    ("dense", {"tracking__mode": "never"}, "tracking.mode=never: must be one of auto, online, offline"),
    ("dense", {"training__micro_batch_size": 3}, "must divide training.global_batch_size=8; for example 2"),
    ("dense", {"training__micro_batch_size": 16}, "for example 8"),
    ("dense", {"training__micro_batch_size": 0}, "must be greater than 0"),
    ("dense", {"training__micro_batch_size": "many"}, "must be a number, or auto"),
    ("dense", {"size__d_model": 100}, "size.d_model=100: must be a multiple of size.head_dim=64; for example 64"),
    ("dense", {"size__n_kv_heads": 5}, "size.n_kv_heads=5: must divide the 2 heads of queries; for example 1"),
    ("mamba", {"architecture__n_groups": 3}, "architecture.n_groups=3: must divide the 4 heads of mamba"),
    ("dense", {"architecture__n_groups": 2}, "architecture.n_groups=2: architecture dense has no mamba block"),
    ("dense", {"recipe__qkv_bias": True, "recipe__bias": True}, "recipe.qkv_bias=true: recipe.bias=true has these"),
    (
        "dense",
        {"recipe__rope_scaling": "linear", "recipe__position": "learned"},
        "recipe.rope_scaling=linear: has no effect with recipe.position=learned",
    ),
    ("dense", {"recipe__rope_factor": 2.0}, "recipe.rope_factor=2.0: has no effect with recipe.rope_scaling=none"),
    (
        "dense",
        {"recipe__rope_scaling": "linear", "recipe__rope_original_seq_len": 64},
        "recipe.rope_original_seq_len=64: has no effect with recipe.rope_scaling=linear; leave it out, or set "
        "recipe.rope_scaling=llama3",
    ),
    (
        "dense",
        {"recipe__rope_scaling": "llama3", "recipe__rope_low_freq_factor": 4.0},
        "recipe.rope_low_freq_factor=4: must be below recipe.rope_high_freq_factor=4",
    ),
    ("dense", {"size__head_dim": 1, "size__d_model": 8}, "size.head_dim=1: must be even"),
    ("dense", {"architecture__top_k": 3}, "architecture.top_k=3: architecture dense has no moe block"),
    ("mamba", {"architecture__window": 16}, "architecture mamba has no sliding_attention block"),
    ("moe", {"architecture__d_state": 64}, "architecture.d_state=64: architecture moe has no mamba or mamba1 block"),
    ("moe", {"architecture__top_k": 9}, "architecture.top_k=9: more than architecture.n_experts=8"),
    ("hybrid", {"architecture__window": 256}, "architecture.window=256: not below training.seq_len=256"),
    ("hybrid", {"size__n_layers": 1}, "architecture.n_blocks=2: too few for the pattern"),
    ("dense", {"architecture__pattern": []}, "architecture.pattern: empty; name the blocks"),
    ("dense", {"architecture__pattern": ["attention", "mamba2"]}, "unknown block 'mamba2'; there are attention"),
    ("dense", {"architecture__free_parameters": ["depth"]}, "free_parameters=depth: must be one of n_blocks"),
    ("dense", {"architecture__d_ff": 8}, "match=active: dense has -"),
    ("dense", {"optimizer__betas": [0.9]}, "optimizer.betas=[0.9]: needs two numbers"),
    ("dense", {"optimizer__betas": [0.9, 1.0]}, "needs two numbers"),
    ("dense", {"schedule__min_ratio": 2.0}, "schedule.min_ratio=2.0: is a share, at most 1"),
    ("dense", {"schedule__decay_fraction": 1.5}, "schedule.decay_fraction=1.5: is a share, at most 1"),
    ("dense", {"stage__stages": {}}, "stage.stages: empty"),
    ("dense", {"stage__stages": {"a": StageConfig("python")}}, "stages.a.corpus=python: must be one of language, code"),
    ("dense", {"stage__stages": {"a": StageConfig("code", 0)}}, "stage.stages.a.max_tokens=0: must be greater than 0"),
    ("dense", {"stage__stages": {"a": StageConfig("code", learning_rate_scale=0)}}, "a.learning_rate_scale=0"),
    *(("dense", {"stage__stages": {"a": StageConfig("code", mixture=mix)}}, expected) for mix, expected in (
        ({"python": 0.1}, "stage.stages.a.mixture.python=0.1: no such corpus; there are language and code"),
        ({"code": 0.1}, "stage.stages.a.mixture.code=0.1: is the stage's own corpus, which has the rest; leave it out"),
        ({"language": 0.0}, "stage.stages.a.mixture.language=0.0: must be greater than 0"),
        ({"language": -0.1}, "stage.stages.a.mixture.language=-0.1: must be greater than 0"),
        ({"language": float("nan")}, "stage.stages.a.mixture.language=nan: must be a finite number"),
        ({"language": 1.0}, "a.mixture={'language': 1.0}: must add up to less than 1, so that code has the rest"),
        ({"language": float("inf")}, "mixture.language=inf: must be a finite number"),
    )),
    ("dense", {"data__val_fraction": 0}, "data.val_fraction=0, data.test_fraction=0.05: both must be above 0"),
    ("dense", {"data__test_fraction": 0.96}, "data.val_fraction=0.05, data.test_fraction=0.96: both must be above 0"),
    ("dense", {"tokenizer__vocab_size": 256}, "tokenizer.vocab_size=256: must be at least 257"),
    ("dense", {"data__test_fraction": 0}, "data.val_fraction=0.05, data.test_fraction=0: both must be above 0"),
    ("dense", {"data__split": "position", "data__val_fraction": 0}, "data.val_fraction=0, data.test_fraction=0.05"),
    ("dense", {"training__dropout": 1.0}, "training.dropout=1.0: must be below 1"),
    ("dense", {"training__dropout": -0.1}, "training.dropout=-0.1: must not be negative"),
    ("dense", {"training__stop_accuracy": 0.9}, "training.stop_accuracy=0.9: text has no accuracy; leave it out"),
    ("dense", {"training__sampling": "random"}, "training.sampling=random: must be one of epochs, replacement"),
    ("dense", {"data__split": "line"}, "data.split=line: must be one of group, position"),
    ("dense", {"tokenizer__kind": "words"}, "tokenizer.kind=words: must be one of bpe, characters"),
    ("dense", {"tokenizer__kind": "characters", "tokenizer__path": "x"}, "tokenizer.path=x: is not made from the text"),
    ("dense", {"tokenizer__kind": "characters", "tokenizer__code_share": 0.2}, "tokenizer.code_share=0.2: tokenizer.k"),
    ("dense", {"tokenizer__kind": "characters", "tokenizer__pattern": "qwen2"}, "tokenizer.pattern=qwen2: has no"),
    ("dense", {"tokenizer__path": "x", "tokenizer__pattern": "qwen2"}, "tokenizer.pattern=qwen2: has no"),
    ("dense", {"architecture__name": "a/b"}, "architecture.name=a/b: names a folder"),
    ("dense", {"sweep_name": "../x"}, "sweep_name=../x: names a folder"),
    ("dense", {"stage__stages": {"a/b": StageConfig("code")}}, "stage.stages.a/b: names a folder"),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "values", "expected"), CASES, ids=[case[2][:50] for case in CASES])
def test_invalid_configurations_are_errors(architecture: str, values: dict[str, Any], expected: str) -> None:
    assert expected in validation_error(change_config(architecture, **values))


BRANCH = StageConfig("language", branch_of="a", budget_share=0.25)


@pytest.mark.parametrize(
    ("branch", "more", "expected"),
    [
        (replace(BRANCH, budget_share=None), {}, "branch_of=a, stage.stages.b.budget_share=None: a branch needs both"),
        (replace(BRANCH, branch_of=None), {}, "branch_of=None, stage.stages.b.budget_share=0.25: a branch needs both"),
        (replace(BRANCH, branch_of="b"), {}, "b.branch_of=b: must be an earlier stage that is no branch, of a"),
        (replace(BRANCH, branch_of="c"), {}, "b.branch_of=c: must be an earlier stage that is no branch, of a"),
        (replace(BRANCH, corpus="code"), {}, "b.corpus=code: a branch of a shares its steps; give language"),
        (replace(BRANCH, mixture={"code": 0.5}), {}, "mixture={'code': 0.5}: a branch of a shares its steps; give {}"),
        (replace(BRANCH, learning_rate_scale=0.5), {}, "b.learning_rate_scale=0.5: a branch of a shares its steps"),
        (replace(BRANCH, budget_share=1.0), {}, "b.budget_share=1.0: must be below 1, the budget of a"),
        (replace(BRANCH, budget_share=1.5), {}, "b.budget_share=1.5: is a share, at most 1"),
        (replace(BRANCH, budget_share=0.0), {}, "b.budget_share=0.0: must be greater than 0"),
        (replace(BRANCH, max_tokens=1000), {}, "b.max_tokens=1000: stage.stages.b.budget_share=0.25 says it; leave it"),
        (BRANCH, {"schedule__name": "cosine"}, "schedule.name=cosine: has no stable phase for the branch b; give"),
        (BRANCH, {"schedule__min_ratio": 1.0}, "schedule.min_ratio=1: the branch b begins with the decay; give less"),
        (BRANCH, {"schedule__warmup_steps": 48}, "b.budget_share=0.25: is 49 of the 195 steps of stage a; a branch"),
        (BRANCH, {"training__max_steps": 2}, "b.budget_share=0.25: is 1 of the 2 steps of stage a; a branch"),
        (replace(BRANCH, budget_share=0.999), {}, "is 195 of the 195 steps of stage a; a branch needs"),
    ],
)  # fmt: skip
def test_invalid_branches_are_errors(branch: StageConfig, more: dict[str, Any], expected: str) -> None:
    validate(change_config(stage__stages={"a": StageConfig("language"), "b": BRANCH}))
    stages = {"a": StageConfig("language"), "b": branch}
    assert expected in validation_error(change_config(stage__stages=stages, **more))


def test_branches_come_last_and_cannot_be_nested() -> None:
    stages = {"a": StageConfig("language"), "b": BRANCH, "c": StageConfig("code")}
    assert validation_error(change_config(stage__stages=stages)) == (
        "stage.stages.c: comes after b, a branch, and would start from its weights; put branches last"
    )
    stages["c"] = replace(BRANCH, branch_of="b", budget_share=0.5)
    assert validation_error(change_config(stage__stages=stages)).startswith(
        "stage.stages.c.branch_of=b: must be an earlier stage"
    )


def test_learned_positions_limit_the_sequence_length() -> None:
    config = change_config(training__seq_len=8192, recipe__position="learned")
    assert "recipe.max_seq_len=8192 or recipe.position=rope" in validation_error(config)


def test_a_missing_source_run_is_an_error() -> None:
    language = replace(compose_base("dense").data.language, source="wikipedia")
    assert validation_error(change_config(data__language=language)) == (
        "data.language.source=wikipedia: must be one of stories, scripts, local, hub, git, datatrove"
    )


HUB = CorpusConfig(source="hub", repo="a/b", revision="0" * 40, files={"a.txt": "f" * 64, "b/c.jsonl": "0" * 64})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"source": "local"}, "repo=a/b: source=local does not read it; leave it out"),
        ({"source": "stories", "repo": None, "revision": None}, "files={"),
        ({"paths": ["x"]}, "paths=['x']: source=hub does not read it; leave it out"),
        ({"repo": None}, "repo=None: must be a data set of the hub, such as roneneldan/TinyStories"),
        ({"repo": "../x"}, "repo=../x: must be a data set of the hub"),
        ({"revision": "main"}, "revision=main: must be a whole commit, 40 hex digits"),
        ({"files": {}}, "files is empty: name the files and their sha256"),
        ({"files": {"../a.txt": "f" * 64}}, "files.../a.txt: must be the path of a .txt or .jsonl"),
        ({"files": {"a.csv": "f" * 64}}, "files.a.csv: must be the path of a .txt or .jsonl: a table"),
        ({"files": {"\x1b[31m.txt": "f" * 64}}, "files.\ufffd[31m.txt: must be the path of a .txt"),
        ({"sha256": "0" * 64}, "sha256=0000"),
        (
            {"source": "local", "repo": None, "revision": None, "files": {}, "sha256": "0"},
            "sha256=0: must be the SHA-256",
        ),
        ({"separator": " "}, "separator=' ': must be printable characters without blanks around them"),
        ({"separator": "\x1b"}, "separator='\\x1b': must be printable"),
        ({"text_field": ""}, "text_field='': must be printable"),
        (
            {"source": "stories", "repo": None, "revision": None, "files": {}, "licence": None, "separator": "x"},
            "separator=x: source=stories does not read it; leave it out",
        ),
        ({"files": {"a.txt": "F" * 64}}, f"files.a.txt={'F' * 64}: must be its sha256, 64 hex digits"),
    ],
)
def test_invalid_hub_settings_are_errors(values: dict[str, Any], expected: str) -> None:
    validate(change_config(data__language=HUB))
    assert validation_error(change_config(data__language=replace(HUB, **values))).startswith(
        f"data.language.{expected}"
    )


GIT = CorpusConfig(source="git", repositories="bash", extensions=[".sh"])


@pytest.mark.parametrize(
    ("corpus", "expected"),
    [
        (replace(GIT, repositories="perl"), "repositories=perl: no such list; choose one of bash"),
        (replace(GIT, repositories=None), "repositories=None: no such list"),
        (replace(GIT, paths=["x"]), "paths=['x']: source=git does not read it; leave it out"),
        (replace(GIT, extensions=[]), "extensions is empty: say what to take of the repositories"),
        (replace(GIT, max_documents_per_group=0), "max_documents_per_group=0: must be greater than 0"),
        (replace(GIT, licences=[]), "licences=[]: must be [any], or name licences"),
        (replace(GIT, licences=["any", "MIT"]), "licences=['any', 'MIT']: must be [any], or name licences"),
        (replace(GIT, hygiene=HygieneConfig(max_line_length=0)), "hygiene.max_line_length=0: must be greater than 0"),
        (replace(GIT, hygiene=HygieneConfig(min_alphanumeric_share=2)), "hygiene.min_alphanumeric_share=2: is a share"),
        (replace(GIT, source="local"), "repositories=bash: source=local does not read it; leave it out"),
        (CorpusConfig("local", max_documents_per_group=5), "max_documents_per_group=5: source=local does not read it"),
        (
            CorpusConfig("scripts", licences=["MIT"]),
            "licences: source=scripts is generated, so it would change nothing",
        ),
        (
            CorpusConfig("scripts", hygiene=HygieneConfig(replace_secrets=False)),
            "hygiene.replace_secrets: source=scripts is generated, so it would change nothing",
        ),
    ],
)
def test_invalid_code_settings_are_errors(corpus: CorpusConfig, expected: str) -> None:
    validate(change_config(data__code=GIT))
    assert validation_error(change_config(data__code=corpus)).startswith(f"data.code.{expected}")


def test_filters_and_repositories_are_only_for_code() -> None:
    assert validation_error(change_config(data__language=GIT)) == (
        "data.language.source=git: repositories are a source of code; choose another"
    )
    stories = CorpusConfig("local", hygiene=HygieneConfig(drop_generated=False))
    assert validation_error(change_config(data__language=stories)).startswith(
        "data.language.hygiene.drop_generated: is no code"
    )


def test_several_processes_have_fp32_weights_and_whole_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    config = change_config(training__memory="lean")
    validate(config)
    divided = change_config(training__memory="int8_moments", runtime__parallel="shard")
    validate(divided)
    monkeypatch.setattr(host, "read_rank_info", lambda: RankInfo(0, 2, 0, 2))
    assert validation_error(config) == (
        "training.memory=lean: is for a single process; with several, leave it out, and set runtime.parallel=shard to "
        "divide weights and optimizer state among the processes"
    )
    assert validation_error(divided) == (
        "runtime.parallel=shard: does not divide the moments of training.memory=int8_moments; set "
        "training.memory=full, or runtime.parallel=replicate"
    )
    validate(change_config(training__memory="int8_moments", training__micro_batch_size=1))


def test_a_missing_extra_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "joblib" in name else find(name))
    assert validation_error(change_config(launcher__name="joblib")) == (
        "launcher=joblib: not installed; pip install -c constraints.txt -e '.[joblib]'"
    )


@pytest.mark.parametrize("architecture", ["dense", "mamba", "moe", "hybrid"])
def test_valid_configurations_pass(architecture: str) -> None:
    validate(compose_base(architecture))
    validate(change_config(architecture, match="none"))
    validate(change_config(architecture, size__d_model=192, size__n_layers=3, training__seq_len=37))


def test_an_output_root_is_a_folder_or_can_become_one(tmp_path: Path) -> None:
    check_writable(str(tmp_path / "new" / "deep"))
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(UserError, match=f"output_root={root}: {tmp_path / 'file'} is no folder that you can write"):
            check_writable(str(root))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
