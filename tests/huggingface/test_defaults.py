"""Settings missing in a config.json get the defaults of transformers, in the spelling of every version."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.schema import UserError
from src.huggingface import read_folder
from src.huggingface.defaults import DEFAULTS, ROPE_THETA, complete_config
from src.model.language_model import LanguageModel
from tests.huggingface.cases import exported, model_of, spec_of, tokenizer_of, tokens_of, version_of

CODE = "advanced_code_model_hybrid"


def plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("model_type", sorted(DEFAULTS.keys() - {CODE}))
def test_defaults_equal_transformers(model_type: str, transformers: Any) -> None:
    theirs = plain(transformers.AutoConfig.for_model(model_type).to_dict())
    ours = complete_config(model_type, theirs)
    found = complete_config(model_type, {})
    assert {key: found[key] for key in DEFAULTS[model_type]} == {key: ours[key] for key in DEFAULTS[model_type]}
    if model_type in ROPE_THETA:
        assert found["rope_parameters"] == ours["rope_parameters"]


def test_hybrid_has_the_defaults_of_its_base_class() -> None:
    assert DEFAULTS["granitemoehybrid"].items() <= DEFAULTS[CODE].items()


SMALL: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4},
    "qwen2": {"hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2},
    "qwen3": {"hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 4, "head_dim": 12, "rms_norm_eps": 1e-4, "rope_theta": 5e5},
    "mixtral": {"hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 8,
                "num_local_experts": 3},
    "gpt2": {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mamba": {"hidden_size": 48, "num_hidden_layers": 2},
    "mamba2": {"hidden_size": 48, "num_hidden_layers": 2, "layer_norm_epsilon": 1e-3, "num_heads": 12, "head_dim": 8,
               "n_groups": 2},
    "granitemoehybrid": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                         "position_embedding_type": "rope", "num_local_experts": 0, "num_experts_per_tok": 0,
                         "shared_intermediate_size": 40, "attention_multiplier": 0.25, "mamba_n_heads": 8,
                         "layer_types": ["mamba", "attention", "mamba"], "intermediate_size": 40},
}  # fmt: skip
"""Settings for a small size; all others have defaults."""
CASES: list[tuple[str, dict[str, Any]]] = [
    *((model_type, {}) for model_type in SMALL),
    ("llama", {"num_key_value_heads": None, "head_dim": None, "rope_scaling": None, "rope_parameters": None}),
    ("llama", {"rope_theta": 10000, "torch_dtype": "float32", "pretraining_tp": 1, "_name_or_path": "x"}),
    ("llama", {"rope_parameters": {"rope_theta": 10000.0}, "dtype": "float32"}),
    ("llama", {"tie_word_embeddings": True}),
    ("llama", {"num_key_value_heads": 2, "head_dim": 10}),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 3}, "rope_interleaved": False}),
    ("qwen2", {"sliding_window": 16, "use_sliding_window": False, "use_mrope": False}),
    ("mixtral", {"num_key_value_heads": 4}),
    ("mamba2", {"n_groups": 1, "norm_before_gate": False, "rms_norm": True}),
    ("mixtral", {"sliding_window": None}),
    ("gpt2", {"tie_word_embeddings": False, "n_inner": None, "n_ctx": 64, "summary_type": "cls_index"}),
    ("mamba", {"time_step_rank": "auto", "tie_word_embeddings": False}),
    ("mamba2", {"tie_word_embeddings": True}),
    ("granitemoehybrid", {"mamba_d_head": "auto", "num_key_value_heads": None}),
]


@pytest.mark.parametrize(("model_type", "more"), CASES)
@torch.no_grad()
def test_minimal_config_equals_transformers(
    model_type: str, more: dict[str, Any], transformers: Any, tmp_path: Path
) -> None:
    """The file has only these settings; the weights are those that transformers initializes for it."""
    if model_type == "mamba2" and more and version_of(transformers) < (5, 0):
        pytest.skip("version 4 cannot save it")
    values = {"model_type": model_type, "vocab_size": 300, **SMALL[model_type], **more}
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(tmp_path)).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    (tmp_path / "tokenizer.json").write_text(tokenizer_of(300).to_str(), encoding="utf-8")
    found = read_folder(tmp_path)
    ours = LanguageModel(found.spec)
    ours.load_state_dict(found.weights)
    tokens = tokens_of(found.spec, 1, 30)
    assert torch.allclose(ours.logits(tokens), theirs(tokens).logits, atol=1e-4)


@pytest.mark.parametrize(
    ("model_type", "more", "expected"),
    [
        ("gpt2", {"scale_attn_weights": None}, "scale_attn_weights=None"),
        ("granitemoehybrid", {"position_embedding_type": None}, "position_embedding_type=None (the default"),
        ("granitemoehybrid", {"layer_types": None}, "its layers require model_type=advanced_code_model_hybrid"),
    ],
)
def test_unsupported_default_is_named(model_type: str, more: dict[str, Any], expected: str, tmp_path: Path) -> None:
    case = {"llama": "dense", "mixtral": "moe", "gpt2": "dense, classic", "granitemoehybrid": "jamba"}[model_type]
    out = exported(tmp_path / "out", model_of(spec_of(case)))
    values = json.loads((out / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps({**values, "rope_parameters": None, **more}), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_folder(out)
    assert expected in str(error.value)
