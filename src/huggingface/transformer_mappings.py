"""Llama for dense models, Qwen3 for those with QK-norm, GPT-2 for those of the classic recipe, Mixtral for experts."""

from src.config.schema import ModelSpec
from src.huggingface import weight_mapping
from src.huggingface.mapping import (
    CLASSIC,
    LAYER_NORMS,
    LLAMA,
    Given,
    Outer,
    Settings,
    Twin,
    attention_settings,
    attention_sizes,
)
from src.huggingface.weight_mapping import Tie, tie
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


def _llama_sizes(given: Given) -> Settings:
    blocks = ("attention", "mlp") * given.count("num_hidden_layers")
    return {**attention_sizes(given), "blocks": blocks, "d_ff": given.whole("intermediate_size")}


def _llama_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[Tie]:
    if kind == "attention":
        return weight_mapping.attention(ours, f"{layer}.self_attn")
    return [
        tie(f"{ours}.w_in.weight", f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight"),
        tie(f"{ours}.w_out.weight", f"{layer}.mlp.down_proj.weight"),
    ]


def _qwen3_settings(spec: ModelSpec) -> Settings:
    return {key: value for key, value in _llama_settings(spec).items() if key != "mlp_bias"} | {
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * (len(spec.blocks) // 2),
    }


def _qwen3_sizes(given: Given) -> Settings:
    blocks = ("qk_norm_attention", "mlp") * given.count("num_hidden_layers")
    return {**_llama_sizes(given), "blocks": blocks}


def _qwen3_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[Tie]:
    if kind == "mlp":
        return _llama_block(spec, kind, ours, layer)
    norms = [tie(f"{ours}.{part}_norm", f"{layer}.self_attn.{part}_norm.weight") for part in "qk"]
    return [*weight_mapping.attention(ours, f"{layer}.self_attn"), *norms]


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


def _mixtral_sizes(given: Given) -> Settings:
    return {
        **attention_sizes(given),
        "blocks": ("attention", "moe") * given.count("num_hidden_layers"),
        "expert_d_ff": given.whole("intermediate_size"),
        "n_experts": given.count("num_local_experts"),
        "top_k": given.whole("num_experts_per_tok"),
    }


def _mixtral_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[Tie]:
    if kind == "attention":
        return weight_mapping.attention(ours, f"{layer}.self_attn")
    return weight_mapping.experts(ours, f"{layer}.block_sparse_moe", spec.n_experts)


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


def _gpt2_sizes(given: Given) -> Settings:
    return {
        "blocks": ("attention", "mlp") * given.count("n_layer"),
        "d_model": given.whole("n_embd"),
        "head_dim": max(1, given.whole("n_embd") // given.whole("n_head")),
        "d_ff": given.whole("n_inner"),
        "max_seq_len": given.whole("n_positions"),
    }


def _gpt2_block(spec: ModelSpec, kind: str, ours: str, layer: str) -> list[Tie]:
    attention, mlp = {"qkv": "attn.c_attn", "out": "attn.c_proj"}, {"w_in": "mlp.c_fc", "w_out": "mlp.c_proj"}
    names = attention if kind == "attention" else mlp
    return [
        *(
            tie(f"{ours}.{left}.weight", f"{layer}.{right}.weight", layout="transposed")
            for left, right in names.items()
        ),
        *(tie(f"{ours}.{left}.bias", f"{layer}.{right}.bias") for left, right in names.items()),
    ]


DENSE = Twin("LlamaForCausalLM", "llama", LLAMA, LAYER_NORMS, _llama_block, _llama_settings, _llama_sizes)
QK_NORM_DENSE = Twin("Qwen3ForCausalLM", "qwen3", LLAMA, LAYER_NORMS, _qwen3_block, _qwen3_settings, _qwen3_sizes)
MOE = Twin("MixtralForCausalLM", "mixtral", LLAMA, LAYER_NORMS, _mixtral_block, _mixtral_settings, _mixtral_sizes)
CLASSIC_DENSE = Twin(
    "GPT2LMHeadModel",
    "gpt2",
    Outer("transformer.wte", "transformer.ln_f", "transformer.h"),
    ("ln_1", "ln_2"),
    _gpt2_block,
    _gpt2_settings,
    _gpt2_sizes,
    CLASSIC,
)
