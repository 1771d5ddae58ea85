"""Llama for dense models, Qwen3 with QK-norm, GPT-2 for the classic recipe, Mixtral for experts."""

from src.config.schema import ModelSpec
from src.huggingface import weight_mapping
from src.huggingface.mapping import (
    CLASSIC,
    LAYER_NORMS,
    LLAMA,
    Mapping,
    OuterNames,
    Settings,
    UntrustedConfig,
    attention_settings,
    attention_sizes,
)
from src.huggingface.weight_mapping import TensorMapping, map_tensor
from src.model.blocks.norm import EPS


def _llama_settings(spec: ModelSpec) -> Settings:
    return {
        **attention_settings(spec),
        "num_hidden_layers": len(spec.blocks) // 2,
        "intermediate_size": spec.d_ff,
        "head_dim": spec.head_dim,
        "attention_bias": False,
        "mlp_bias": False,
    }


def _llama_sizes(config: UntrustedConfig) -> Settings:
    blocks = ("attention", "mlp") * config.count("num_hidden_layers")
    return {**attention_sizes(config), "blocks": blocks, "d_ff": config.positive_int("intermediate_size")}


def _llama_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[TensorMapping]:
    if kind == "attention":
        return weight_mapping.map_attention(ours, f"{layer}.self_attn")
    return [
        map_tensor(f"{ours}.w_in.weight", f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight"),
        map_tensor(f"{ours}.w_out.weight", f"{layer}.mlp.down_proj.weight"),
    ]


def _qwen3_settings(spec: ModelSpec) -> Settings:
    return {key: value for key, value in _llama_settings(spec).items() if key != "mlp_bias"} | {
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * (len(spec.blocks) // 2),
    }


def _qwen3_sizes(config: UntrustedConfig) -> Settings:
    blocks = ("qk_norm_attention", "mlp") * config.count("num_hidden_layers")
    return {**_llama_sizes(config), "blocks": blocks}


def _qwen3_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[TensorMapping]:
    if kind == "mlp":
        return _llama_block(spec, kind, ours, layer)
    norms = [map_tensor(f"{ours}.{part}_norm", f"{layer}.self_attn.{part}_norm.weight") for part in "qk"]
    return [*weight_mapping.map_attention(ours, f"{layer}.self_attn"), *norms]


def _mixtral_settings(spec: ModelSpec) -> Settings:
    return {
        **attention_settings(spec),
        "num_hidden_layers": len(spec.blocks) // 2,
        "intermediate_size": spec.expert_d_ff,
        "num_local_experts": spec.n_experts,
        "num_experts_per_tok": spec.top_k,
        "head_dim": spec.head_dim,
        "sliding_window": None,
    }


def _mixtral_sizes(config: UntrustedConfig) -> Settings:
    return {
        **attention_sizes(config),
        "blocks": ("attention", "moe") * config.count("num_hidden_layers"),
        "expert_d_ff": config.positive_int("intermediate_size"),
        "n_experts": config.count("num_local_experts"),
        "top_k": config.positive_int("num_experts_per_tok"),
    }


def _mixtral_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[TensorMapping]:
    if kind == "attention":
        return weight_mapping.map_attention(ours, f"{layer}.self_attn")
    return weight_mapping.map_experts(ours, f"{layer}.block_sparse_moe", spec.n_experts)


def _gpt2_settings(spec: ModelSpec) -> Settings:
    return {
        "n_embd": spec.d_model,
        "n_layer": len(spec.blocks) // 2,
        "n_head": spec.n_heads,
        "n_inner": spec.d_ff,
        "n_positions": spec.max_seq_len,
        "n_ctx": spec.max_seq_len,  # llama.cpp and mlx-lm read it; transformers does not
        "activation_function": "gelu_new",
        "layer_norm_epsilon": EPS,
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
        "d_model": config.positive_int("n_embd"),
        "head_dim": max(1, config.positive_int("n_embd") // config.positive_int("n_head")),
        "d_ff": config.positive_int("n_inner"),
        "max_seq_len": config.positive_int("n_positions"),
    }


def _gpt2_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[TensorMapping]:
    attention, mlp = {"qkv": "attn.c_attn", "out": "attn.c_proj"}, {"w_in": "mlp.c_fc", "w_out": "mlp.c_proj"}
    names = attention if kind == "attention" else mlp
    return [
        *(
            map_tensor(f"{ours}.{left}.weight", f"{layer}.{right}.weight", layout="transposed")
            for left, right in names.items()
        ),
        *(map_tensor(f"{ours}.{left}.bias", f"{layer}.{right}.bias") for left, right in names.items()),
    ]


DENSE = Mapping("LlamaForCausalLM", "llama", LLAMA, LAYER_NORMS, _llama_block, _llama_settings, _llama_sizes)
QK_NORM_DENSE = Mapping("Qwen3ForCausalLM", "qwen3", LLAMA, LAYER_NORMS, _qwen3_block, _qwen3_settings, _qwen3_sizes)
MOE = Mapping("MixtralForCausalLM", "mixtral", LLAMA, LAYER_NORMS, _mixtral_block, _mixtral_settings, _mixtral_sizes)
CLASSIC_DENSE = Mapping(
    "GPT2LMHeadModel",
    "gpt2",
    OuterNames("transformer.wte", "transformer.ln_f", "transformer.h"),
    ("ln_1", "ln_2"),
    _gpt2_block,
    _gpt2_settings,
    _gpt2_sizes,
    CLASSIC,
)
