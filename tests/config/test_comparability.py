"""The contract contains every setting that can change a result; exceptions are listed with their reasons."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pytest

from src.cli.compose import compose_config, register_schema
from src.config.comparability import (
    COUNTED_AS,
    DERIVED,
    MAY_DIFFER,
    SPEED_KEYS,
    comparable_groups,
    differences,
    flatten,
    is_listed,
    search_differences,
    settings_of,
    with_current_names,
)
from src.config.schema import TrainConfig, TrainingConfig
from src.runs.contract import training_contract
from src.runs.planning import check_job
from tests.contract.small import CPU

BASE = {"size.d_model": 128, "training.seq_len": 128, "git_commit": "a" * 40, "runtime.device": "cpu"}
BASE |= {"runtime.threads": 2, "init_from": None}


def composed(*overrides: str) -> TrainConfig:
    register_schema(TrainConfig, "train")
    return compose_config(TrainConfig, "train", ["stage=full", "data=embedded", *overrides])


def make_contract(config: TrainConfig) -> dict[str, Any]:
    from src.runs.contract import build_contract

    return build_contract(config, None, None, CPU)


def change_value(value: Any) -> Any:
    """Return another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value * 2 + 1
    if isinstance(value, list):
        return [*value, *(value[:1] or ["more"])]
    return 7 if value is None else f"{value}x"


def list_settings(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield the key of every setting, and the section and name by which it can be changed."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from list_settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", values, name


def with_changed(config: TrainConfig, key: str) -> TrainConfig:
    """Change one setting of a configuration."""
    parts, values = key.split("."), asdict(config)
    section = values
    for part in parts[:-1]:
        section = section[part]
    before = section[parts[-1]]
    section[parts[-1]] = {"language": 0.25} if before == {} else __file__ if key in FILES else change_value(before)
    if parts[-1] in BRANCH:  # one has no meaning without the other
        section |= BRANCH
    # Built without composing: the schema would reject `cosinex` as a schedule, and the contract does not check values.
    return build_dataclass(config, values)


def build_dataclass(config: Any, values: dict[str, Any]) -> Any:
    """Build the dataclass of the same kind from nested values."""
    parts = {}
    for name, value in values.items():
        before = getattr(config, name)
        if hasattr(before, "__dataclass_fields__"):
            parts[name] = build_dataclass(before, value)
        elif name == "stages":
            parts[name] = {key: build_dataclass(before[key], each) for key, each in value.items()}
        else:
            parts[name] = value
    return replace(config, **parts)


CONFIG = composed()
KEYS = [key for key, _, _ in list_settings(asdict(CONFIG))]
FILES = ("tokenizer.path", "tokenizer.compare")
BRANCH = {"branch_of": "language", "budget_share": 0.5}
BY_CONTENT = ("data.", "tokenizer.", "init_from", "learning_rates", "launcher.")
"""What counts by what a run finds there, which `training_contract` is given and does not look for: tested by itself."""


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_changes_the_contract_or_is_on_the_list_with_its_reason(key: str) -> None:
    """`training_contract` returns the contract without machine and versions."""
    before, after = (training_contract(config, None, None) for config in (CONFIG, with_changed(CONFIG, key)))
    differing = {name for name in before.keys() | after.keys() if before.get(name, ...) != after.get(name, ...)}
    if is_listed(key, MAY_DIFFER):
        assert not differing
    elif (named := is_listed(key, COUNTED_AS)) is not None:
        assert differing <= set(named)
        assert differing or key.startswith(BY_CONTENT)
    else:
        assert any(name == key or name.startswith(f"{key}.") for name in differing)


@dataclass
class LaterTraining(TrainingConfig):
    """A later version of the schema with a new setting."""

    order: str = "fixed"
    kernels: dict[str, bool] = field(default_factory=lambda: {"flash": True})


def test_a_new_setting_is_in_the_contract_unless_it_is_listed() -> None:
    later_config = replace(CONFIG, training=LaterTraining(**asdict(CONFIG.training)))
    new = settings_of(later_config).keys() - settings_of(CONFIG).keys()
    assert new == {"training.order", "training.kernels.flash"}


def test_each_list_names_existing_settings_with_reasons() -> None:
    known = {key.replace("stages.language", "stages.*").replace("stages.code", "stages.*") for key in KEYS}
    known |= {".".join(key.split(".")[:end]) for key in known for end in range(1, key.count(".") + 1)}
    assert set(MAY_DIFFER) | set(COUNTED_AS) <= known
    assert not set(MAY_DIFFER) & set(COUNTED_AS)
    assert all(MAY_DIFFER.values()) and {name for names in COUNTED_AS.values() for name in names} <= set(DERIVED)
    assert make_contract(CONFIG).keys() >= set(SPEED_KEYS) | set(DERIVED)


def test_two_widths_with_the_same_size_name_are_not_comparable() -> None:
    """Dense at width 64 and hybrid at 128 once shared the size name `nano`."""
    dense = make_contract(composed("architecture=dense", "size.d_model=64"))
    hybrid = make_contract(composed("architecture=hybrid"))
    assert comparable_groups({"dense": dense, "hybrid": hybrid}) == [["dense"], ["hybrid"]]
    assert "size.d_model: 64 (dense) | 128 (hybrid)" in differences({"dense": dense, "hybrid": hybrid})


def test_text_and_launcher_are_compared_by_their_effect() -> None:
    assert make_contract(composed("data.seed=1"))["data_hash"] != make_contract(CONFIG)["data_hash"]
    assert (
        make_contract(composed("tokenizer.code_share=0.3"))["tokenizer_hash"] != make_contract(CONFIG)["tokenizer_hash"]
    )
    assert (
        make_contract(CONFIG)["host_shared"] is False
        and make_contract(composed("launcher=joblib"))["host_shared"] is True
    )


def draw(seed: int, *overrides: str) -> TrainConfig:
    """Compose a run whose seed draws its text."""
    return check_job([f"seed={seed}", "data_draws=each_seed", "data=embedded", "size=nano", *overrides])[0]


def test_seeds_that_draw_their_own_text_are_comparable() -> None:
    contracts = {f"s{seed}": make_contract(draw(seed)) for seed in (0, 1)} | {"moe": make_contract(draw(1))}
    assert contracts["s0"]["data_hash"] != contracts["s1"]["data_hash"] == contracts["moe"]["data_hash"]
    assert comparable_groups(contracts) == [["s0", "s1", "moe"]] and not differences(contracts)
    assert not search_differences(contracts["s0"], contracts["s1"])
    other, one = make_contract(draw(2, "data.val_fraction=0.1")), make_contract(CONFIG)
    for key, run in (("data_draws", other), ("data_hash", one)):
        assert len(comparable_groups({**contracts, "other": run})) == 2
        assert key in [line.split(":")[0] for line in search_differences(contracts["s0"], run)]


@pytest.mark.parametrize("architecture", ["mamba", "moe", "hybrid", "gated_deltanet"])
@pytest.mark.parametrize("more", [(), ("training.budget=flops",), ("training.budget=time", "training.max_seconds=60")])
def test_architectures_at_the_same_settings_have_equal_contracts(architecture: str, more: tuple[str, ...]) -> None:
    assert make_contract(composed("architecture=dense", *more)) == make_contract(
        composed(f"architecture={architecture}", *more)
    )


def test_budget_and_warmup_are_recorded_in_every_unit() -> None:
    rules = training_contract(composed("schedule.warmup_steps=39"), None, None)
    # 2 x 791,680 matrices + causal attention over 256 positions + a head of 4096, three times, for each token
    assert "195 steps and 399360 tokens, of dense 3.466e+12 FLOPs" in str(rules["stages"])
    assert rules["warmup"] == "language: 39 of 195 steps (20.0%), code: 39 of 195 steps (20.0%)"


def test_equal_budgets_in_different_units_are_equal() -> None:
    by_tokens, by_steps = composed("training.max_tokens=204800"), composed("training.max_steps=100")
    assert make_contract(by_tokens) == make_contract(by_steps)


def test_a_searched_rate_is_a_result_and_its_search_settings_are_rules() -> None:
    searched = [replace(CONFIG.optimizer, learning_rate=rate, search="grid, 5 rates") for rate in (1e-3, 2e-3)]
    one, other = (make_contract(replace(CONFIG, optimizer=optimizer)) for optimizer in searched)
    assert one == other and one["optimizer.learning_rate"] is None
    assert one["learning_rate_search"] == "grid, 5 rates"
    for_other = replace(searched[0], search_differences=["training.max_tokens: 1 | 2"])
    assert make_contract(replace(CONFIG, optimizer=for_other)) != one


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("stage=code", "stages"),
        ("data.seed=5", "data_hash"),
        ("schedule=cosine", "schedule.name"),
        ("schedule.warmup_steps=60", "schedule.warmup_steps"),
        ("training.max_tokens=1000000", "stages"),
        ("training.global_batch_size=16", "training.global_batch_size"),
        ("match=total", "match"),
        ("recipe=classic", "recipe.norm"),
        ("optimizer.weight_decay=0.01", "optimizer.weight_decay"),
    ],
)
def test_a_search_for_other_settings_names_the_differences(override: str, key: str) -> None:
    search, run = training_contract(CONFIG, None, None), training_contract(composed(override), None, None)
    assert search_differences(search, training_contract(composed("architecture=mamba", "seed=7"), None, None)) == []
    found = {line.split(":")[0]: line for line in search_differences(search, run)}
    assert " | " in found[key] and "(search) | " in next(iter(found.values()))


def test_what_follows_from_a_difference_is_not_shown() -> None:
    contracts = {
        run: make_contract(composed(*more))
        for run, more in (
            ("a", ()),
            ("b", ("size=pico", "training.max_tokens=400_000")),
            ("c", ("size=pico", "training.max_tokens=200_000")),
        )
    }
    keys = {key: line for line in differences({run: contracts[run] for run in "ab"}) for key in (line.split(":")[0],)}
    assert keys.keys() & {"size.d_model", "training.seq_len"} and not keys.keys() & {"reference", "data_order_hash"}
    assert "(a) | 64 (b)" in keys["size.d_model"]
    assert keys["size.n_layers"] == "size.n_layers: 4 | 2", "the same runs are not named again"
    (budget,) = differences({run: contracts[run] for run in "bc"})[:1]
    assert budget.startswith("stages: ") and "steps" in budget and "(b) | " in budget
    assert len(comparable_groups(contracts)) == 3


def test_a_setting_that_a_search_did_not_have_counts_unless_it_is_the_default() -> None:
    search = {key: value for key, value in training_contract(CONFIG, None, None).items() if key != "training.memory"}
    assert search_differences(search, training_contract(CONFIG, None, None)) == []
    lean = training_contract(composed("training.memory=lean"), None, None)
    assert search_differences(search, lean) == ["training.memory: (missing) (search) | lean (run)"]


def test_contracts_of_earlier_versions_are_read_with_current_names() -> None:
    assert with_current_names({"budget": "tokens", "device": "cpu", "data_hash": "x"}) == {
        "training.budget": "tokens", "runtime.device": "cpu", "data_hash": "x",
    }  # fmt: skip
    assert with_current_names(make_contract(CONFIG)) == make_contract(CONFIG)


def test_nested_settings_become_dotted_keys() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2], "d": {}}, "e": None}) == {"a.b": 1, "a.c": "[1, 2]", "e": None}


def test_equal_contracts_have_no_differences_and_one_group() -> None:
    contracts = {"a": BASE, "b": dict(reversed(BASE.items()))}
    assert differences(contracts) == []
    assert comparable_groups(contracts) == [["a", "b"]]


def test_a_difference_names_key_values_and_runs() -> None:
    contracts = {"a": BASE, "b": {**BASE, "training.seq_len": 256}, "c": {**BASE, "training.seq_len": 256}}
    assert differences(contracts) == ["training.seq_len: 128 (a) | 256 (b, c)"]
    assert comparable_groups(contracts) == [["a"], ["b", "c"]]


def test_a_missing_key_differs_from_null() -> None:
    contracts = {"a": BASE, "b": {key: value for key, value in BASE.items() if key != "init_from"}}
    assert differences(contracts) == ["init_from: null (a) | (missing) (b)"]
    assert comparable_groups(contracts) == [["a"], ["b"]]


def test_an_empty_contract_equals_no_other() -> None:
    assert comparable_groups({"a": BASE, "b": {}, "c": {}}) == [["a"], ["b", "c"]]
    assert len(differences({"a": BASE, "b": {}})) == len(BASE)


def test_device_and_threads_matter_for_speed_only() -> None:
    contracts = {"a": BASE, "b": {**BASE, "runtime.threads": 8}}
    assert comparable_groups(contracts) == [["a", "b"]]
    assert comparable_groups(contracts, speed=True) == [["a"], ["b"]]
    assert differences(contracts) == ["runtime.threads: 2 (a) | 8 (b) (matters for speed only)"]


def test_another_version_of_the_code_is_another_contract() -> None:
    contracts = {"a": BASE, "b": {**BASE, "git_commit": "b" * 40}}
    assert comparable_groups(contracts) == [["a"], ["b"]]
    assert differences(contracts) == ["git_commit: aaaaaaaaaaaa (a) | bbbbbbbbbbbb (b)"]


def test_long_lists_of_runs_are_shortened() -> None:
    contracts = {f"r{i}": {"seq_len": i // 5} for i in range(6)}
    assert differences(contracts) == ["seq_len: 0 (r0, r1 and 3 more) | 1 (r5)"]


def test_no_contracts_have_no_differences() -> None:
    assert differences({}) == [] and comparable_groups({}) == []


def test_long_texts_are_cut_to_their_differing_part() -> None:
    text = "name: adamw, learning_rate: {}, betas: [0.9, {}], rate of code: 1.5"
    contracts = {"a": {"optimizer": text.format(0.003, 0.95)}, "b": {"optimizer": text.format(0.001, 0.99)}}
    assert differences(contracts) == [
        "optimizer: learning_rate: 0.003, betas: [0.9, 0.95] (a) | learning_rate: 0.001, betas: [0.9, 0.99] (b)"
    ]
    contracts["c"] = {"optimizer": "name: muon"}
    line = differences(contracts)[0]
    assert line.endswith("| name: muon (c)") and "betas: [0.9, 0.95], rate" in line
