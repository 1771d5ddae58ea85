"""Folders of other programs: config.json as published checkpoints have it, weights by transformers' own classes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from src.config.schema import SamplingConfig
from src.huggingface import read_folder, write_folder
from src.huggingface.import_model import Imported
from src.inference.generation import generate
from src.model.language_model import LanguageModel, token_loss
from tests.huggingface.cases import tokenizer_of, tokens_of

SIZES = {
    "vocab_size": 320, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2,
}  # fmt: skip
COMMON = {"attention_dropout": 0.0, "hidden_act": "silu", "initializer_range": 0.02, "use_cache": True}
LLAMA = {**SIZES, **COMMON, "model_type": "llama", "attention_bias": False, "pretraining_tp": 1, "rms_norm_eps": 1e-5}
QWEN = {
    **SIZES, **COMMON, "bos_token_id": 151643, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "use_sliding_window": False, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama 3.2": {
        **LLAMA, "architectures": ["LlamaForCausalLM"], "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 16,
        "max_position_embeddings": 131072, "mlp_bias": False, "rope_theta": 500000.0, "tie_word_embeddings": True,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 64,
            "rope_type": "llama3",
        },
        "torch_dtype": "bfloat16", "transformers_version": "4.45.0.dev0",
    },
    "Llama, linear": {**LLAMA, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "SmolLM2": {
        **LLAMA, "bos_token_id": 0, "eos_token_id": 0, "is_llama_config": True, "max_position_embeddings": 8192,
        "rope_interleaved": False, "rope_scaling": None, "rope_theta": 100000, "tie_word_embeddings": True,
    },
    "Qwen2.5": {
        **QWEN, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "eos_token_id": 151643,
        "max_position_embeddings": 32768, "max_window_layers": 24, "sliding_window": 32768, "use_mrope": False,
    },
    "Qwen3": {
        **QWEN, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "eos_token_id": 151645, "head_dim": 12,
        "attention_bias": False, "max_position_embeddings": 40960, "max_window_layers": 28, "rope_scaling": None,
        "sliding_window": None,
    },
    "Mixtral": {
        **SIZES, **COMMON, "model_type": "mixtral", "bos_token_id": 1, "eos_token_id": 2, "num_experts_per_tok": 2,
        "max_position_embeddings": 32768, "num_local_experts": 4, "output_router_logits": False, "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0, "router_aux_loss_coef": 0.02, "sliding_window": None, "tie_word_embeddings": False,
    },
    "Mamba-2": {
        "model_type": "mamba2", "vocab_size": 320, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 16,
        "chunk_size": 256, "conv_kernel": 4, "expand": 2, "head_dim": 8, "num_heads": 12, "n_groups": 1,
        "layer_norm_epsilon": 1e-5, "rms_norm": True, "time_step_limit": [0.0, float("inf")], "time_step_rank": 3,
        "time_step_min": 0.001, "time_step_max": 0.1, "time_step_floor": 0.0001, "use_bias": False,
        "use_conv_bias": True, "residual_in_fp32": True, "rescale_prenorm_residual": False, "hidden_act": "silu",
        "tie_word_embeddings": True, "pad_token_id": 0,
    },
    "Mamba-2, groups": {
        "model_type": "mamba2", "vocab_size": 320, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 16,
        "head_dim": 8, "num_heads": 12, "n_groups": 4, "norm_before_gate": True,
    },
}  # fmt: skip
CASES = [pytest.param(name, marks=() if name in ("Llama 3.2", "Qwen2.5") else pytest.mark.slow) for name in FAMILIES]
END = "<|end_of_text|>"


def tokenizer_with_its_own_end() -> Tokenizer:
    """Return a tokenizer with fewer tokens than the model, which ends texts with its last one."""
    tokenizer = Tokenizer.from_str(tokenizer_of(300).to_str())
    tokenizer.add_special_tokens([END])
    return tokenizer


@pytest.fixture
def saved(request: pytest.FixtureRequest, transformers: Any, tmp_path: Path) -> tuple[Any, Imported]:
    """Return a model in transformers, whose random weights are in several files, and as this program reads it."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    config = json.dumps(FAMILIES[request.param])
    (folder / "config.json").write_text(config, encoding="utf-8")
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)).float()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.15 if parameter.ndim > 1 else 0.1))
    theirs.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    (folder / "config.json").write_text(config, encoding="utf-8")
    (folder / "tokenizer.json").write_text(tokenizer_with_its_own_end().to_str(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END}), encoding="utf-8")
    return theirs.eval(), read_folder(folder)


def ours_of(found: Imported) -> LanguageModel:
    model = LanguageModel(found.spec)
    model.load_state_dict(found.weights)
    return model


@pytest.mark.parametrize("saved", CASES, indirect=True)
@torch.no_grad()
def test_logits_and_greedy_text_equal_transformers(saved: tuple[Any, Imported]) -> None:
    """Beyond the context that llama3 scales, one token at a time from a cache, and again without."""
    theirs, found = saved
    ours, tokens = ours_of(found), tokens_of(found.spec, 2, 150)
    torch.testing.assert_close(ours.logits(tokens), theirs(tokens).logits, rtol=0, atol=1e-4)
    prompt = tokens[:1, :100]
    given = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    expected = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **given)[0, 100:].tolist()
    for cache in (True, False):
        assert list(generate(ours, prompt[0].tolist(), SamplingConfig(20, 0.0), cache=cache)) == expected
    assert len(set(expected)) > 3
    assert found.eot == END and found.spec.vocab_size == 320


@pytest.mark.parametrize("saved", CASES, indirect=True)
def test_training_equals_transformers(saved: tuple[Any, Imported]) -> None:
    theirs, found = saved
    ours, theirs = ours_of(found), theirs.train()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (ours, theirs)]
    tokens, losses = tokens_of(found.spec, 2, 49, seed=3), []
    for _ in range(3):
        pair = [token_loss(ours, ours(tokens[:, :-1]), tokens[:, 1:]), theirs(tokens, labels=tokens).loss]
        for loss, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append([loss.item() for loss in pair])
    assert all(left == pytest.approx(right, abs=1e-4) for left, right in losses), losses
    assert losses[-1][0] < losses[0][0] - 0.05


@pytest.mark.parametrize("saved", CASES, indirect=True)
@torch.no_grad()
def test_an_export_loads_in_transformers_again(saved: tuple[Any, Imported], transformers: Any, tmp_path: Path) -> None:
    theirs, found = saved
    folder = tmp_path / "out"
    folder.mkdir()
    write_folder(folder, found.spec, found.weights, found.tokenizer, SamplingConfig(), {}, "", found.eot)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    tokens = tokens_of(found.spec, 2, 150)
    torch.testing.assert_close(again.eval()(tokens).logits, theirs(tokens).logits, rtol=0, atol=1e-4)
    assert type(again) is type(theirs)
    (folder / "advanced_code_model.json").unlink()
    assert read_folder(folder).spec == found.spec
