"""Llama for dense models, Qwen2 if q, k, v have biases, Qwen3 with QK-norm, Mixtral; GPT-2 for the classic recipe."""

from src.config.schema import ModelSpec
from src.huggingface import weight_mapping
from src.huggingface.mapping import (
    ATTENTION_FIELDS,
    CLASSIC,
    LAYER_NORMS,
    LLAMA,
    LLAMA_FAMILY,
    Mapping,
    OuterNames,
    Settings,
    UntrustedConfig,
    attention_settings,
    read_heads,
)
from src.huggingface.weight_mapping import TensorMapping, map_tensor

DENSE_FIELDS = ATTENTION_FIELDS | {"intermediate_size": "d_ff"}


def _layer_settings(spec: ModelSpec) -> Settings:
    return {**attention_settings(spec), "num_hidden_layers": len(spec.blocks) // 2, "head_dim": spec.head_dim}


def _layer_sizes(config: UntrustedConfig, mixer: str, feed_forward: str) -> Settings:
    return {"blocks": (mixer, feed_forward) * config.count("num_hidden_layers"), **read_heads(config)}


def _llama_settings(spec: ModelSpec) -> Settings:
    return {**_layer_settings(spec), "attention_bias": False, "mlp_bias": False}


def _qwen2_settings(spec: ModelSpec) -> Settings:
    return {
        **_layer_settings(spec),
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * (len(spec.blocks) // 2),
    }


def _qwen2_sizes(config: UntrustedConfig) -> Settings:
    return {**_layer_sizes(config, "attention", "mlp"), "qkv_bias": True}


def _qwen3_settings(spec: ModelSpec) -> Settings:
    return {**_qwen2_settings(spec), "attention_bias": False}


def _mixtral_settings(spec: ModelSpec) -> Settings:
    return {**_layer_settings(spec), "num_local_experts": spec.n_experts, "sliding_window": None}


def _mixtral_sizes(config: UntrustedConfig) -> Settings:
    return {**_layer_sizes(config, "attention", "moe"), "n_experts": config.count("num_local_experts")}


def _gpt2_settings(spec: ModelSpec) -> Settings:
    return {
        "n_layer": len(spec.blocks) // 2,
        "n_head": spec.n_heads,
        "n_ctx": spec.max_seq_len,  # llama.cpp and mlx-lm read it; transformers does not
        "activation_function": "gelu_new",
        "layer_norm_epsilon": spec.norm_eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    }


def _gpt2_sizes(config: UntrustedConfig) -> Settings:
    return {
        "blocks": ("attention", "mlp") * config.count("n_layer"),
        **read_heads(config, "n_embd", "n_head"),
    }


def _gpt2_tensors(names: dict[str, str]) -> list[TensorMapping]:
    weights = [map_tensor(f"{ours}.weight", f"{theirs}.weight", layout="transposed") for ours, theirs in names.items()]
    return [*weights, *(map_tensor(f"{ours}.bias", f"{theirs}.bias") for ours, theirs in names.items())]


DENSE = Mapping(
    "LlamaForCausalLM",
    "llama",
    LLAMA,
    LAYER_NORMS,
    {"attention": ("self_attn", weight_mapping.ATTENTION), "mlp": ("mlp", weight_mapping.SWIGLU)},
    DENSE_FIELDS,
    _llama_settings,
    lambda config: _layer_sizes(config, "attention", "mlp"),
    optional=LLAMA_FAMILY,
)
BIASED_DENSE = Mapping(
    "Qwen2ForCausalLM",
    "qwen2",
    LLAMA,
    LAYER_NORMS,
    {"attention": ("self_attn", weight_mapping.BIASED_ATTENTION), "mlp": ("mlp", weight_mapping.SWIGLU)},
    DENSE_FIELDS,
    _qwen2_settings,
    _qwen2_sizes,
    optional=(*LLAMA_FAMILY, "qkv biases"),
)
QK_NORM_DENSE = Mapping(
    "Qwen3ForCausalLM",
    "qwen3",
    LLAMA,
    LAYER_NORMS,
    {"qk_norm_attention": ("self_attn", weight_mapping.QK_NORM_ATTENTION), "mlp": ("mlp", weight_mapping.SWIGLU)},
    DENSE_FIELDS,
    _qwen3_settings,
    lambda config: _layer_sizes(config, "qk_norm_attention", "mlp"),
    optional=LLAMA_FAMILY,
)
MOE = Mapping(
    "MixtralForCausalLM",
    "mixtral",
    LLAMA,
    LAYER_NORMS,
    {"attention": ("self_attn", weight_mapping.ATTENTION), "moe": ("block_sparse_moe", weight_mapping.EXPERTS)},
    ATTENTION_FIELDS | {"intermediate_size": "expert_d_ff", "num_experts_per_tok": "top_k"},
    _mixtral_settings,
    _mixtral_sizes,
    optional=LLAMA_FAMILY,
)
CLASSIC_DENSE = Mapping(
    "GPT2LMHeadModel",
    "gpt2",
    OuterNames("transformer.wte", "transformer.ln_f", "transformer.h"),
    ("ln_1", "ln_2"),
    {
        "attention": ("attn", _gpt2_tensors({"qkv": "c_attn", "out": "c_proj"})),
        "mlp": ("mlp", _gpt2_tensors({"w_in": "c_fc", "w_out": "c_proj"})),
    },
    {"n_embd": "d_model", "n_inner": "d_ff", "n_positions": "max_seq_len"},
    _gpt2_settings,
    _gpt2_sizes,
    CLASSIC,
    mlx_file="modeling_mlx_gpt2.py",
)
