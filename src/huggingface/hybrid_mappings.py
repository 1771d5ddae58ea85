"""GraniteMoeHybrid for pairs of any mixer (Mamba-2, gated DeltaNet, attention) and feed-forward block (mlp, experts).

The class of transformers has no window, no delta rule, no layer with experts but without a shared mlp, and fails
without attention. A model that needs one of those is exported with a subclass (`modeling_hybrid.py`).
"""

from src.config.schema import ModelSpec, UserError
from src.huggingface import weight_mapping
from src.huggingface.defaults import NEWER_NAMES
from src.huggingface.mapping import (
    ATTENTION_FIELDS,
    LAYER_NORMS,
    LLAMA,
    LLAMA_FAMILY,
    TIME_STEP_LIMIT,
    Mapping,
    Settings,
    UntrustedConfig,
    attention_settings,
    read_heads,
)
from src.huggingface.weight_mapping import map_tensor
from src.model.blocks.gated_deltanet.cost import VALUE_PER_KEY, count_heads

MODULE = "modeling_hybrid"
MIXERS = {
    "mamba": "linear_attention",
    "sliding_attention": "sliding_attention",
    "attention": "full_attention",
    "gated_deltanet": "linear_attention",
}
"""Layer types of transformers; `mixer_types` distinguishes kinds that have the same type."""
OLDER_NAMES = {newer: older for older, newer in NEWER_NAMES.items()}
FEED_FORWARD = ("mlp", "moe")
FIELDS = ATTENTION_FIELDS | {
    "mamba_d_state": "d_state",
    "mamba_d_conv": "d_conv",
    "mamba_chunk_size": "chunk_size",
}
FIELDS_OF_KIND = {
    "sliding_attention": {"sliding_window": "window"},
    "mlp": {"shared_intermediate_size": "d_ff"},
    "moe": {"intermediate_size": "expert_d_ff", "num_local_experts": "n_experts", "num_experts_per_tok": "top_k"},
}
"""Read only if the model has such blocks."""
BLOCKS = {
    "attention": ("self_attn", weight_mapping.ATTENTION),
    "sliding_attention": ("self_attn", weight_mapping.ATTENTION),
    "mamba": ("mamba", weight_mapping.MAMBA2),
    "gated_deltanet": ("mamba", weight_mapping.GATED_DELTANET),
    "mlp": (
        "shared_mlp",
        [map_tensor("w_in.weight", "input_linear.weight"), map_tensor("w_out.weight", "output_linear.weight")],
    ),
    "moe": (
        "block_sparse_moe",
        [
            map_tensor("router.weight", "router.weight"),
            map_tensor("w_in", "experts.gate_up_proj"),
            map_tensor("w_out", "experts.down_proj"),
        ],
    ),
}


def _feed_forward_settings(spec: ModelSpec) -> Settings:
    """Return both widths, although only those of kinds in the pattern are used."""
    experts = "moe" in spec.blocks
    return {
        "shared_intermediate_size": spec.d_ff if "mlp" in spec.blocks else spec.expert_d_ff,
        "intermediate_size": spec.expert_d_ff if experts else spec.d_ff,
        "num_local_experts": spec.n_experts if experts else 0,
        "num_experts_per_tok": spec.top_k if experts else 0,
    }


def _mamba_settings(spec: ModelSpec) -> Settings:
    """Return consistent sizes even if the pattern has no mamba, since the class checks them anyway."""
    has_mamba = "mamba" in spec.blocks
    n_heads, rest = (spec.n_ssm_heads, 0) if has_mamba else divmod(spec.d_model, spec.head_dim)
    return {
        "mamba_n_heads": 1 if rest else n_heads,
        "mamba_d_head": spec.d_model if rest else spec.head_dim,
        "mamba_expand": spec.d_inner // spec.d_model if has_mamba else 1,
        "mamba_n_groups": spec.n_groups,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "time_step_limit": TIME_STEP_LIMIT,
    }


def _layer_types(spec: ModelSpec) -> list[str]:
    return [MIXERS[kind] for kind in spec.blocks[::2]]


def _granite_settings(spec: ModelSpec) -> Settings:
    return {
        **attention_settings(spec),
        **({"head_dim": spec.head_dim} if spec.attention_width != spec.d_model else {}),
        "num_hidden_layers": len(spec.blocks) // 2,
        "layer_types": [OLDER_NAMES.get(name, name) for name in _layer_types(spec)],
        **_feed_forward_settings(spec),
        "attention_bias": False,
        "attention_multiplier": spec.head_dim**-0.5,
        "embedding_multiplier": 1.0,
        "logits_scaling": 1.0,
        "residual_multiplier": 1.0,
        "position_embedding_type": "rope",
        **_mamba_settings(spec),
    }


def _delta_settings(spec: ModelSpec) -> Settings:
    if "gated_deltanet" not in spec.blocks:
        return {}
    return {
        "mixer_types": list(spec.blocks[::2]),
        "linear_num_heads": count_heads(spec),
        "linear_key_head_dim": spec.head_dim,
        "linear_value_head_dim": VALUE_PER_KEY * spec.head_dim,
    }


def _hybrid_settings(spec: ModelSpec) -> Settings:
    return {
        **_granite_settings(spec),
        "layer_types": _layer_types(spec),
        # `generate` reads the length of the cache, which recurrent states do not have, so it must run without a cache.
        "use_cache": any("attention" in kind for kind in spec.blocks),
        "auto_map": {"AutoConfig": f"{MODULE}.HybridConfig", "AutoModelForCausalLM": f"{MODULE}.HybridForCausalLM"},
        "feed_forward_types": list(spec.blocks[1::2]),
        "sliding_window": spec.window if "sliding_attention" in spec.blocks else None,
        **_delta_settings(spec),
    }


def _sizes(config: UntrustedConfig, feed_forward: list[str]) -> Settings:
    layer_types = config.name_list("layer_types")
    if config.values.get("mixer_types") is not None:  # transformers writes null if it is absent
        ours, mixers = {kind: kind for kind in MIXERS}, config.name_list("mixer_types")
    else:
        ours, mixers = {theirs: kind for kind, theirs in reversed(MIXERS.items())}, layer_types
    if unknown := sorted({*mixers} - ours.keys() | {*feed_forward} - {*FEED_FORWARD}):
        raise UserError(f"{unknown[0]!r:.40}: unknown type of layer")
    count = config.count("num_hidden_layers")
    if not len(layer_types) == len(mixers) == len(feed_forward) == count:
        raise UserError(f"num_hidden_layers={count}: differs from the number of layer types")
    blocks = tuple(kind for pair in zip(mixers, feed_forward, strict=True) for kind in (ours.get(pair[0], ""), pair[1]))
    found: Settings = {**read_heads(config), "blocks": blocks}
    if "mamba" in blocks:
        found["n_groups"] = config.positive_int("mamba_n_groups")
        found["d_inner"] = config.positive_int("mamba_expand") * config.positive_int("hidden_size")
    for kind, fields in FIELDS_OF_KIND.items():
        if kind in blocks:
            found |= config.read_fields(fields)
    return found


def _granite_sizes(config: UntrustedConfig) -> Settings:
    return _sizes(config, ["mlp"] * len(config.name_list("layer_types")))


def _hybrid_sizes(config: UntrustedConfig) -> Settings:
    return _sizes(config, config.name_list("feed_forward_types"))


GRANITE = Mapping(
    "GraniteMoeHybridForCausalLM",
    "granitemoehybrid",
    LLAMA,
    LAYER_NORMS,
    BLOCKS,
    FIELDS,
    _granite_settings,
    _granite_sizes,
    optional=LLAMA_FAMILY,
    # llama.cpp's converter gives the attention of a hybrid rotary positions only if Bamba, which has the same layers,
    # is listed. All other programs use the first name or the model_type.
    also=("BambaForCausalLM",),
)
HYBRID = Mapping(
    "HybridForCausalLM",
    "advanced_code_model_hybrid",
    LLAMA,
    LAYER_NORMS,
    BLOCKS,
    FIELDS,
    _hybrid_settings,
    _hybrid_sizes,
    optional=LLAMA_FAMILY,
    code=True,
    mlx_file="modeling_mlx.py",
)
