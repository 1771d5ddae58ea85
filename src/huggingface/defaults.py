"""The defaults of transformers for keys missing in config.json, and one spelling for settings that have several.

`tests/huggingface/test_defaults.py` compares the tables with the classes of the installed transformers.
"""

from typing import Any

from src.config.schema import UserError
from src.huggingface.mapping import TIME_STEP_LIMIT, Settings

NEWER_NAMES = {"mamba": "linear_attention", "attention": "full_attention"}
"""Layer types in transformers 4, mlx-lm and llama.cpp, with their names in transformers 5, which reads both."""
_ATTENTION: Settings = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
_QWEN: Settings = {
    **_ATTENTION,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "layer_types": None,
}
_STATE_SPACE: Settings = {
    "conv_kernel": 4,
    "expand": 2,
    "hidden_act": "silu",
    "layer_norm_epsilon": 1e-5,
    "use_bias": False,
    "use_conv_bias": True,
    "residual_in_fp32": True,
    "time_step_rank": "auto",
}
_GRANITE: Settings = {
    **_ATTENTION,
    "intermediate_size": 11008,
    "attention_bias": False,
    "attention_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "shared_intermediate_size": 1024,
    "position_embedding_type": None,
    "layer_types": None,
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_head": "auto",
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "time_step_limit": None,
}
DEFAULTS: dict[str, Settings] = {
    "llama": {**_ATTENTION, "intermediate_size": 11008, "head_dim": None, "attention_bias": False, "mlp_bias": False},
    "qwen2": {**_QWEN, "head_dim": None},
    "qwen3": {**_QWEN, "head_dim": 128, "attention_bias": False},
    "mixtral": {
        **_ATTENTION,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "rms_norm_eps": 1e-5,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "head_dim": None,
        "sliding_window": None,
    },
    "gpt2": {
        "vocab_size": 50257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_inner": None,
        "n_positions": 1024,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    },
    "mamba": {
        **_STATE_SPACE,
        "vocab_size": 50280,
        "hidden_size": 768,
        "num_hidden_layers": 32,
        "state_size": 16,
        "intermediate_size": None,
        "tie_word_embeddings": True,
    },
    "mamba2": {
        **_STATE_SPACE,
        "vocab_size": 32768,
        "hidden_size": 4096,
        "num_hidden_layers": 64,
        "state_size": 128,
        "num_heads": 128,
        "head_dim": 64,
        "n_groups": 8,
        "chunk_size": 256,
        "intermediate_size": None,
        "time_step_limit": None,
        "tie_word_embeddings": False,
    },
    "granitemoehybrid": _GRANITE,
    "advanced_code_model_hybrid": {**_GRANITE, "sliding_window": None, "feed_forward_types": None},
}
"""By model_type, the default of every setting that we read; None if it follows from others."""
MAX_LAYERS = 2**16
ROPE_THETA = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "granitemoehybrid", "advanced_code_model_hybrid"), 1e4),
    "mixtral": 1e6,
}
NO_LIMIT = (None, TIME_STEP_LIMIT, [0.0, float("inf")], [0.0, "Infinity"], [0.0, {"__float__": "Infinity"}])
"""Values of `time_step_limit` without effect, as several versions write them."""


def complete_config(model_type: str, config: Settings) -> Settings:
    """Return a config.json with the defaults of transformers added and each setting in one spelling.

    null means the default, except for a switch that is on by default: transformers rejects it or takes it as off.
    Raises UserError if two spellings of a setting contradict each other.
    """
    defaults = DEFAULTS[model_type]
    found = defaults | {
        key: defaults.get(key) if value is None and defaults.get(key) is not True else value
        for key, value in config.items()
    }
    if "num_key_value_heads" in config and config["num_key_value_heads"] is None:
        found["num_key_value_heads"] = None  # Mixtral has another default if the key is absent
    if found.get("use_sliding_window") is False:
        found["sliding_window"] = None
    kind = "full_attention" if model_type in ("qwen2", "qwen3") else "linear_attention"
    for key, value in _derive_settings(found, kind).items():
        if key in defaults and found[key] in (None, "auto"):
            found[key] = value
    if "time_step_limit" in found and found["time_step_limit"] in NO_LIMIT:
        found["time_step_limit"] = TIME_STEP_LIMIT
    if isinstance(types := found.get("layer_types"), list):
        found["layer_types"] = [NEWER_NAMES.get(kind, kind) if isinstance(kind, str) else kind for kind in types]
    if model_type in ROPE_THETA:
        found |= _merge_rope_settings(found, ROPE_THETA[model_type])
    return found


def _derive_settings(found: Settings, layer_type: str) -> Settings:
    """Compute the settings that follow from others if those are integers; `layer_type` is the type of all layers."""

    def whole(key: str) -> int:
        value = found.get(key)
        return value if type(value) is int and 0 < value < 2**31 else 1

    width, channels = whole("hidden_size"), whole("mamba_expand") * whole("hidden_size")
    return {
        "n_inner": 4 * whole("n_embd"),
        "num_key_value_heads": found.get("num_attention_heads"),
        "head_dim": width // whole("num_attention_heads"),
        "intermediate_size": whole("expand") * width,
        "time_step_rank": -(-width // 16),
        "mamba_d_head": channels // whole("mamba_n_heads"),
        "layer_types": [layer_type] * min(whole("num_hidden_layers"), MAX_LAYERS),
    }


def _merge_rope_settings(found: Settings, default_theta: float) -> Settings:
    """Merge `rope_parameters` (transformers 5) and `rope_theta` with `rope_scaling` (before) into both spellings."""
    key = "rope_scaling" if found.get("rope_scaling") else "rope_parameters"
    given: Any = found.get(key) or {}
    if not isinstance(given, dict):
        raise UserError(f"{key}={given!r:.40}: must be a JSON object")
    theta = found.get("rope_theta")
    parameters = {"rope_type": given.get("type", "default"), "rope_theta": default_theta if theta is None else theta}
    parameters |= {name: value for name, value in given.items() if name != "type" and value is not None}
    if theta is not None and parameters["rope_theta"] != theta:
        raise UserError(f"rope_theta={theta!r:.40}: contradicts rope_parameters, {parameters['rope_theta']!r:.40}")
    if parameters.get("partial_rotary_factor") == 1:
        del parameters["partial_rotary_factor"]
    return {"rope_parameters": parameters, "rope_theta": parameters["rope_theta"], "rope_scaling": None}
