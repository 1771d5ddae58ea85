"""Mamba2 and Mamba for models of state-space blocks alone."""

from src.config.schema import ModelSpec
from src.huggingface import weight_mapping
from src.huggingface.mapping import TIME_STEP_LIMIT, Given, Outer, Settings, Twin
from src.huggingface.weight_mapping import Tie
from src.model.blocks.mamba1.cost import dt_rank
from src.model.blocks.norm import EPS

BACKBONE = Outer("backbone.embeddings", "backbone.norm_f", "backbone.layers")
REQUIRES = {"norm": "rmsnorm"}
"""Neither positions nor mlps nor biases are in such a model, whatever the recipe says of them."""


def _settings(spec: ModelSpec) -> Settings:
    return {
        "hidden_size": spec.d_model,
        "num_hidden_layers": len(spec.blocks),
        "state_size": spec.d_state,
        "conv_kernel": spec.d_conv,
        "expand": max(1, spec.d_inner // spec.d_model),
        "hidden_act": "silu",
        "layer_norm_epsilon": EPS,
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
    }


def _sizes(given: Given, kind: str) -> Settings:
    return {
        "blocks": (kind,) * given.count("num_hidden_layers"),
        "d_model": given.whole("hidden_size"),
        "d_state": given.whole("state_size"),
        "d_conv": given.whole("conv_kernel"),
    }


def _mamba2_settings(spec: ModelSpec) -> Settings:
    return {
        **_settings(spec),
        "num_heads": spec.n_ssm_heads,
        "head_dim": spec.head_dim,
        "n_groups": 1,
        "chunk_size": spec.chunk_size,
        # mlx-lm and llama.cpp read these; transformers computes them from others.
        "intermediate_size": spec.d_inner,
        "time_step_rank": dt_rank(spec),
        "time_step_limit": TIME_STEP_LIMIT,
    }


def _mamba2_sizes(given: Given) -> Settings:
    return {
        **_sizes(given, "mamba"),
        "d_inner": given.whole("expand") * given.whole("hidden_size"),
        "head_dim": given.whole("head_dim"),
        "chunk_size": given.whole("chunk_size"),
    }


def _mamba1_settings(spec: ModelSpec) -> Settings:
    """Write the width of the state-space layer as `intermediate_size`: it need not be a multiple of d_model."""
    return {**_settings(spec), "intermediate_size": spec.d_inner, "time_step_rank": dt_rank(spec)}


def _mamba1_sizes(given: Given) -> Settings:
    return {**_sizes(given, "mamba1"), "d_inner": given.whole("intermediate_size")}


def _mamba2_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[Tie]:
    return weight_mapping.mamba2(ours, f"{layer}.mixer")


def _mamba1_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[Tie]:
    return weight_mapping.mamba1(ours, f"{layer}.mixer")


MAMBA2 = Twin(
    "Mamba2ForCausalLM", "mamba2", BACKBONE, ("norm",), _mamba2_block, _mamba2_settings, _mamba2_sizes, REQUIRES
)
MAMBA1 = Twin(
    "MambaForCausalLM", "mamba", BACKBONE, ("norm",), _mamba1_block, _mamba1_settings, _mamba1_sizes, REQUIRES
)
