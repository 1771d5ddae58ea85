"""Small models of every kind with a mapping, with random nonzero weights, and transformers."""

import os
import sys
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from src.config.schema import ModelSpec, SamplingConfig
from src.data.tokenizer.bpe import train_tokenizer
from src.huggingface import write_folder
from src.model.build import build_model
from src.model.language_model import LanguageModel
from tests.contract.small import small_spec

CLASSIC = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True}
GROUPED = {"kv_heads": 2, "rope_scaling": "llama3", "rope_factor": 8.0, "rope_original_seq_len": 32}
BLOCKS: dict[str, tuple[str, list[str], dict[str, Any]]] = {
    "dense": ("LlamaForCausalLM", ["attention", "mlp"], {}),
    "dense, classic": ("GPT2LMHeadModel", ["attention", "mlp"], CLASSIC),
    "dense, QK-norm": ("Qwen3ForCausalLM", ["qk_norm_attention", "mlp"], {}),
    "dense, grouped": ("LlamaForCausalLM", ["attention", "mlp"], {**GROUPED, "query_heads": 8}),
    "dense, biases": ("Qwen2ForCausalLM", ["attention", "mlp"], {"kv_heads": 1, "qkv_bias": True}),
    "dense, wide biases": ("Qwen2ForCausalLM", ["attention", "mlp"], {"query_heads": 6, "qkv_bias": True}),
    "dense, wide QK-norm": (
        "Qwen3ForCausalLM",
        ["qk_norm_attention", "mlp"],
        {"query_heads": 6, "kv_heads": 3, "rope_scaling": "linear", "rope_factor": 2.0},
    ),
    "mamba": ("Mamba2ForCausalLM", ["mamba"], {}),
    "mamba, groups": ("Mamba2ForCausalLM", ["mamba"], {"d_inner": 192, "n_groups": 2}),
    "mamba1": ("MambaForCausalLM", ["mamba1"], {}),
    "mamba1, odd width": ("MambaForCausalLM", ["mamba1"], {"d_inner": 136}),
    "moe": ("MixtralForCausalLM", ["attention", "moe"], {}),
    "moe, grouped": ("MixtralForCausalLM", ["attention", "moe"], {**GROUPED, "query_heads": 6}),
    "hybrid": ("HybridForCausalLM", ["mamba", "mlp", "sliding_attention", "mlp"], {}),
    "hybrid, grouped": (
        "HybridForCausalLM",
        ["mamba", "mlp", "sliding_attention", "mlp"],
        {**GROUPED, "query_heads": 6, "d_inner": 192, "n_groups": 2},
    ),
    "jamba, grouped": (
        "GraniteMoeHybridForCausalLM",
        ["mamba", "mlp", "attention", "mlp"],
        {"kv_heads": 2, "query_heads": 6, "n_groups": 2, "d_inner": 192, "rope_scaling": "linear", "rope_factor": 2.0},
    ),
    "windows alone, wide": ("HybridForCausalLM", ["sliding_attention", "mlp"], {"head_dim": 24, "query_heads": 3}),
    "griffin": ("HybridForCausalLM", ["mamba", "mlp", "mamba", "mlp", "sliding_attention", "mlp"], {}),
    "jamba": ("GraniteMoeHybridForCausalLM", ["mamba", "mlp", "attention", "mlp", "mamba", "mlp"], {}),
    "moe_hybrid": ("HybridForCausalLM", ["mamba", "moe", "sliding_attention", "moe"], {}),
    "all kinds": ("HybridForCausalLM", ["mamba", "moe", "sliding_attention", "mlp", "attention", "moe"], {}),
    "windows alone": ("HybridForCausalLM", ["sliding_attention", "mlp"], {}),
    "windows and full": ("HybridForCausalLM", ["attention", "mlp", "sliding_attention", "mlp"], {}),
    "gated deltanet": ("HybridForCausalLM", ["gated_deltanet", "mlp"], {}),
    "deltanet and all": (
        "HybridForCausalLM",
        ["gated_deltanet", "moe", "mamba", "mlp", "sliding_attention", "mlp"],
        {},
    ),
    "no attention": ("HybridForCausalLM", ["mamba", "mlp"], {}),
}
"""Class of transformers, pattern, and settings that differ from the recipe modern."""
SIZES: dict[str, dict[str, Any]] = {
    "even": {
        "d_model": 64, "head_dim": 16, "d_ff": 88, "expert_d_ff": 40, "n_experts": 4, "top_k": 2, "window": 24,
        "d_state": 16, "d_inner": 128, "d_conv": 4, "chunk_size": 16, "vocab_size": 512, "max_seq_len": 128,
    },
    "odd": {
        "d_model": 96, "head_dim": 32, "d_ff": 136, "expert_d_ff": 56, "n_experts": 5, "top_k": 3, "window": 13,
        "d_state": 24, "d_inner": 288, "d_conv": 3, "chunk_size": 10, "vocab_size": 300, "max_seq_len": 90,
    },
}  # fmt: skip
LENGTH = 83
"""Longer than every window, and not a multiple of any chunk."""


def spec_of(case: str, size: str = "even", repeat: int = 2, **more: Any) -> ModelSpec:
    _, pattern, settings = BLOCKS[case]
    return replace(small_spec("dense"), **{**SIZES[size], "blocks": tuple(pattern) * repeat, **settings, **more})


def model_of(spec: ModelSpec, seed: int = 0) -> LanguageModel:
    """Build a model whose weights, including norms and biases, are random and nonzero."""
    model = build_model(spec, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * (0.2 if parameter.ndim < 2 else 0.05))
            assert bool((parameter != 0).all())
    return model


def tokens_of(spec: ModelSpec, batch: int, length: int, seed: int = 0) -> Tensor:
    """Draw tokens (B, T); each row begins with the end-of-text token, as documents do."""
    tokens = torch.randint(spec.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    return tokens


@cache
def tokenizer_of(vocab_size: int) -> Tokenizer:
    """Train a tokenizer on text with enough repetitions."""
    words = [f"{a}{b}{c}{a}{c} " for a in "bdfgkp" for b in "aeiou" for c in "lmnrst"]
    return train_tokenizer(["".join(words) * 3, "for i in 1 2; do echo $i; done\n" * 9], vocab_size)


def exported(folder: Path, model: LanguageModel, dtype: str = "f32", **record: Any) -> Path:
    """Write a model to a new folder."""
    folder.mkdir(parents=True)
    tokenizer = tokenizer_of(model.spec.vocab_size).to_str().encode()
    write_folder(folder, model.spec, model.state_dict(), tokenizer, SamplingConfig(), record, "", dtype=dtype)
    return folder


def open_transformers(cache_folder: Path) -> Any:
    """Import transformers without network access; it writes only to the cache folder."""
    if "transformers" not in sys.modules:
        os.environ |= {
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(cache_folder),
            "HF_MODULES_CACHE": str(cache_folder / "modules"),
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers


def version_of(transformers: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in transformers.__version__.split(".")[:2])


def load(transformers: Any, folder: Path) -> Any:
    """Load an exported model, and check that every tensor of the file is used.

    Skips the test if the model's own class rejects the installed version, which another test checks.
    """
    if (folder / "modeling_hybrid.py").exists() and version_of(transformers) < (5, 23):
        pytest.skip("modeling_hybrid.py refuses this version of transformers")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, trust_remote_code=(folder / "modeling_hybrid.py").exists(), output_loading_info=True
    )
    assert not any(info.values()), info
    return model.eval()


def same_spec(ours: ModelSpec, theirs: ModelSpec) -> bool:
    return all(getattr(ours, item.name) == getattr(theirs, item.name) for item in fields(ModelSpec))
