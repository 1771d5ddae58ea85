"""Mamba2 and Mamba for models that have only state-space blocks."""

from src.config.schema import ModelSpec
from src.huggingface import weight_mapping
from src.huggingface.mapping import TIME_STEP_LIMIT, Mapping, OuterNames, Settings, UntrustedConfig
from src.huggingface.weight_mapping import TensorMapping
from src.model.blocks.mamba1.cost import dt_rank
from src.model.blocks.norm import EPS

BACKBONE = OuterNames("backbone.embeddings", "backbone.norm_f", "backbone.layers")
REQUIRES = {"norm": "rmsnorm"}
"""Such a model has no positions, mlps or biases, so those settings of the recipe do not matter."""


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


def _sizes(config: UntrustedConfig, kind: str) -> Settings:
    return {
        "blocks": (kind,) * config.count("num_hidden_layers"),
        "d_model": config.positive_int("hidden_size"),
        "d_state": config.positive_int("state_size"),
        "d_conv": config.positive_int("conv_kernel"),
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


def _mamba2_sizes(config: UntrustedConfig) -> Settings:
    return {
        **_sizes(config, "mamba"),
        "d_inner": config.positive_int("expand") * config.positive_int("hidden_size"),
        "head_dim": config.positive_int("head_dim"),
        "chunk_size": config.positive_int("chunk_size"),
    }


def _mamba1_settings(spec: ModelSpec) -> Settings:
    """Return the width of the state-space layer as `intermediate_size`: it need not be a multiple of d_model."""
    return {**_settings(spec), "intermediate_size": spec.d_inner, "time_step_rank": dt_rank(spec)}


def _mamba1_sizes(config: UntrustedConfig) -> Settings:
    return {**_sizes(config, "mamba1"), "d_inner": config.positive_int("intermediate_size")}


def _mamba2_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[TensorMapping]:
    return weight_mapping.map_mamba2(ours, f"{layer}.mixer")


def _mamba1_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[TensorMapping]:
    return weight_mapping.map_mamba1(ours, f"{layer}.mixer")


MAMBA2 = Mapping(
    "Mamba2ForCausalLM", "mamba2", BACKBONE, ("norm",), _mamba2_block, _mamba2_settings, _mamba2_sizes, REQUIRES
)
MAMBA1 = Mapping(
    "MambaForCausalLM", "mamba", BACKBONE, ("norm",), _mamba1_block, _mamba1_settings, _mamba1_sizes, REQUIRES
)
