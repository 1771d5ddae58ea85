"""Mamba2 and Mamba for models that have only state-space blocks."""

from src.config.schema import ModelSpec
from src.huggingface import weight_mapping
from src.huggingface.mapping import TIME_STEP_LIMIT, Mapping, OuterNames, Settings, UntrustedConfig
from src.model.blocks.mamba1.cost import dt_rank

BACKBONE = OuterNames("backbone.embeddings", "backbone.norm_f", "backbone.layers")
FIELDS = {"hidden_size": "d_model", "state_size": "d_state", "conv_kernel": "d_conv"}
REQUIRES = {"norm": "rmsnorm"}
"""Such a model has no positions, mlps or biases, so those settings of the recipe do not matter."""


def _settings(spec: ModelSpec) -> Settings:
    return {
        "num_hidden_layers": len(spec.blocks),
        "expand": max(1, spec.d_inner // spec.d_model),
        "hidden_act": "silu",
        "layer_norm_epsilon": spec.norm_eps,
        "use_bias": False,
        "use_conv_bias": True,
        "residual_in_fp32": True,
        "time_step_rank": dt_rank(spec),
    }


def _mamba2_settings(spec: ModelSpec) -> Settings:
    return {
        **_settings(spec),
        "num_heads": spec.n_ssm_heads,
        "n_groups": spec.n_groups,
        # mlx-lm and llama.cpp read these two and the rank above; transformers computes them from others.
        "intermediate_size": spec.d_inner,
        "time_step_limit": TIME_STEP_LIMIT,
    }


def _mamba2_sizes(config: UntrustedConfig) -> Settings:
    width = config.positive_int("expand") * config.positive_int("hidden_size")
    n_groups = config.positive_int("n_groups")
    return {"blocks": ("mamba",) * config.count("num_hidden_layers"), "d_inner": width, "n_groups": n_groups}


def _mamba1_sizes(config: UntrustedConfig) -> Settings:
    return {"blocks": ("mamba1",) * config.count("num_hidden_layers")}


MAMBA2 = Mapping(
    "Mamba2ForCausalLM",
    "mamba2",
    BACKBONE,
    ("norm",),
    {"mamba": ("mixer", weight_mapping.MAMBA2)},
    FIELDS | {"head_dim": "head_dim", "chunk_size": "chunk_size"},
    _mamba2_settings,
    _mamba2_sizes,
    REQUIRES,
)
MAMBA1 = Mapping(
    "MambaForCausalLM",
    "mamba",
    BACKBONE,
    ("norm",),
    {"mamba1": ("mixer", weight_mapping.MAMBA1)},
    FIELDS | {"intermediate_size": "d_inner"},  # it need not be a multiple of d_model
    _settings,
    _mamba1_sizes,
    REQUIRES,
)
