"""Budgets by the size of the model: as many tokens for every architecture of a size."""

import pytest

from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig
from src.model.cost.model_cost import model_cost
from src.model.size_matching import reference_spec
from src.training.stage_budget import plan_stage, stage_tokens


@pytest.fixture(autouse=True)
def _registered() -> None:
    register_schema(TrainConfig, "train")


def config_of(*overrides: str) -> TrainConfig:
    return compose_config(TrainConfig, "train", ["training.tokens_per_parameter=20", *overrides])


@pytest.mark.parametrize("size", ["pico", "nano"])
def test_the_budget_is_a_number_of_tokens_for_each_parameter_of_dense(size: str) -> None:
    config = config_of(f"size={size}")
    architectures = ("dense", "mamba", "moe")
    tokens = {stage_tokens(config_of(f"size={size}", f"architecture={name}"))["language"] for name in architectures}
    params = model_cost(reference_spec(config), config.training.seq_len).active_non_embedding_params
    per_step = config.training.global_batch_size * config.training.seq_len
    assert tokens == {20 * params // per_step * per_step}, "whole steps, and alike"


def test_branches_and_stages_take_their_share_of_it() -> None:
    config = config_of("stage=language_budgets", "size=pico")
    steps = {name: plan_stage(config, name, stage, 0).steps for name, stage in config.stage.stages.items()}
    whole = steps["language"]
    assert steps == {"language": whole, "language_quarter": round(whole / 4), "language_sixteenth": round(whole / 16)}
    own = config_of("+stage.stages.language.max_tokens=500_000", "size=pico")
    assert stage_tokens(own)["language"] <= 500_000, "a stage's own budget comes first"


def test_other_limits_still_hold() -> None:
    assert stage_tokens(config_of("training.max_steps=3", "size=pico"))["language"] == 3 * 8 * 128
    flops = config_of("training.budget=flops", "architecture=mamba", "size=nano")
    dense = stage_tokens(config_of("size=nano"))["language"]
    assert stage_tokens(flops)["language"] < dense, "mamba takes more FLOPs for a token"
