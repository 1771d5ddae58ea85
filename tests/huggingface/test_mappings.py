"""Exported models equal ours in logits, greedy text, and training losses."""

import inspect
import json
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from src.config.schema import CONF, ROOT, ModelSpec, SamplingConfig, UserError
from src.huggingface import mapping_of, read_folder
from src.inference.generation import generate
from src.model.language_model import LanguageModel, token_loss
from src.model.size_matching import match_size
from tests.contract.small import composed
from tests.huggingface.cases import (
    BLOCKS,
    CLASSIC,
    LENGTH,
    SIZES,
    exported,
    load,
    model_of,
    spec_of,
    tokens_of,
    version_of,
)

TOLERANCE = 1e-4
USUAL = ("dense", "dense, classic", "dense, grouped", "mamba", "mamba1", "moe", "hybrid", "gated deltanet")
CASES = [pytest.param(case, marks=() if case in USUAL else pytest.mark.slow) for case in BLOCKS]


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / ours.abs().max())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_equal_transformers(case: str, size: str, transformers: Any, tmp_path: Path) -> None:
    spec = spec_of(case, size)
    model = model_of(spec)
    theirs = load(transformers, exported(tmp_path / "out", model))
    assert type(theirs).__name__ == BLOCKS[case][0]
    tokens = tokens_of(spec, 2, LENGTH)
    assert largest_difference(model.logits(tokens), theirs(tokens).logits) <= TOLERANCE
    assert largest_difference(model.logits(tokens), theirs(tokens, use_cache=False).logits) <= TOLERANCE


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_other_norms_and_rotary_positions_equal_transformers(case: str, transformers: Any, tmp_path: Path) -> None:
    model = model_of(spec_of(case, norm_eps=0.03, rope_theta=700.0))
    tokens = tokens_of(model.spec, 2, LENGTH)
    expected = model.logits(tokens)
    folder = exported(tmp_path / "out", model)
    assert largest_difference(expected, load(transformers, folder)(tokens).logits) <= TOLERANCE
    default = LanguageModel(spec_of(case))
    default.load_state_dict(model.state_dict())
    assert largest_difference(expected, default.logits(tokens)) > 10 * TOLERANCE
    (folder / "advanced_code_model.json").unlink()
    found = read_folder(folder).spec
    assert found.norm_eps == 0.03
    is_rotated = found.position == "rope" and any("attention" in kind for kind in found.blocks)
    assert found.rope_theta == (700.0 if is_rotated else found.rope_theta)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_tied_head_is_stored_once_and_restored(case: str, transformers: Any, tmp_path: Path) -> None:
    spec = spec_of(case, tie_embeddings=True)
    model = model_of(spec)
    out = exported(tmp_path / "out", model)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is True
    theirs = load(transformers, out)
    tokens = tokens_of(spec, 2, LENGTH)
    assert largest_difference(model.logits(tokens), theirs(tokens).logits) <= TOLERANCE
    theirs.save_pretrained(tmp_path / "again")  # without our record
    for folder in (out, tmp_path / "again"):
        if not (folder / "tokenizer.json").exists():
            (folder / "tokenizer.json").write_bytes((out / "tokenizer.json").read_bytes())
        found = read_folder(folder)
        assert found.spec.tie_embeddings
        weights = model.state_dict()
        assert weights.keys() == found.weights.keys()
        assert all(torch.equal(weights[name], tensor) for name, tensor in found.weights.items())


@pytest.mark.parametrize("use_cache", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_greedy_text_equals_transformers(case: str, use_cache: bool, transformers: Any, tmp_path: Path) -> None:
    """30 prompt tokens and 45 new ones: beyond window and chunk, with and without cache."""
    if use_cache and not any("attention" in kind for kind in BLOCKS[case][1]):
        pytest.skip("not supported by transformers; the exported configuration has use_cache false")
    spec = spec_of(case)
    model = model_of(spec, seed=5 if case in ("dense, grouped", "dense, biases") else 3)
    theirs = load(transformers, exported(tmp_path / "out", model))
    prompt = tokens_of(spec, 1, 30, seed=1)
    ours = list(generate(model, prompt[0].tolist(), SamplingConfig(max_new_tokens=45, temperature=0)))
    given = {"max_new_tokens": 45, "do_sample": False, "eos_token_id": None, "use_cache": use_cache}
    found = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), **given)
    assert found[0, 30:].tolist() == ours
    assert len(set(ours)) > 5 or case == "dense, classic"


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_logits_of_padded_and_continued_rows(case: str, transformers: Any, tmp_path: Path) -> None:
    """Rows padded on the left, and a row passed in two parts, each longer than the window."""
    spec = spec_of(case)
    model = model_of(spec)
    theirs = load(transformers, exported(tmp_path / "out", model))
    tokens, lengths = tokens_of(spec, 3, LENGTH), (LENGTH, LENGTH - 1, 40)
    mask = torch.stack([(torch.arange(LENGTH) >= LENGTH - length).long() for length in lengths])
    positions = (mask.cumsum(1) - 1).clamp(min=0)  # as `generate` gives them
    given = {} if spec.blocks[0].startswith("mamba") and len({*spec.blocks}) == 1 else {"position_ids": positions}
    found = theirs(tokens, attention_mask=mask, **given).logits
    for row, length in enumerate(lengths):
        ours = model.logits(tokens[row : row + 1, LENGTH - length :])
        assert largest_difference(ours[0], found[row, LENGTH - length :]) <= TOLERANCE, length

    if version_of(transformers) < (5, 0):
        return  # Version 4 needs another cache class for each model; `generate` creates it, as in the test above.
    names = inspect.signature(theirs.forward).parameters
    name = next(name for name in ("cache", "cache_params", "past_key_values") if name in names)
    # transformers' Mamba drops the last inputs of its convolution if several tokens continue others.
    sizes = [50, *[1] * (LENGTH - 50)] if "mamba1" in spec.blocks else [50, LENGTH - 50]
    past, parts = {}, []
    for part in tokens[:1].split(sizes, dim=1):
        answer = theirs(part, use_cache=True, **past)
        past = {name: getattr(answer, name)}
        parts.append(answer.logits)
    assert largest_difference(model.logits(tokens[:1]), torch.cat(parts, dim=1)) <= TOLERANCE


@pytest.mark.parametrize(
    ("version", "functions", "expected"),
    [
        ("4.57.6", None, "transformers 4.57.6 lacks parts of this model; install one that has them: pip install"),
        (
            "5.99.0",
            {"create_causal_mask": "(config, inputs_embeds, attention_mask, states)"},
            "does not support; install",
        ),
        (
            "5.99.0",
            {"create_causal_mask": "(config, inputs_embeds, attention_mask, cache, way)"},
            "does not support; install",
        ),
        (
            "5.99.0",
            {"GraniteMoeHybridModel": "(self, input_ids=None, states=None, **kwargs)"},
            "does not support; install",
        ),
    ],
)
def test_hybrid_rejects_unsupported_versions(
    version: str,
    functions: dict[str, str] | None,
    expected: str,
    transformers: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if functions and version_of(transformers) < (5, 23):
        pytest.skip("has no such functions")
    for name, signature in (functions or {}).items():
        scope: dict[str, Any] = {}
        exec(f"def function{signature}: ...", scope)
        if name[0].islower():
            monkeypatch.setattr(transformers.masking_utils, name, scope["function"])
        else:
            monkeypatch.setattr(getattr(transformers, name), "forward", scope["function"])
    monkeypatch.setattr(sys.modules["transformers"], "__version__", version)
    with pytest.raises(ImportError, match=re.escape(expected)) as error:
        runpy.run_path(str(ROOT / "src" / "huggingface" / "modeling_hybrid.py"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("case", CASES)
def test_training_equals_transformers(case: str, transformers: Any, tmp_path: Path) -> None:
    """Five steps from the same weights, without auxiliary losses, which transformers pools over layers."""
    spec = spec_of(case, aux_loss_weight=0.0, router_z_loss_weight=0.0)
    ours = model_of(spec)
    theirs = load(transformers, exported(tmp_path / "out", ours)).train()
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-3) for model in (ours, theirs)]
    tokens = tokens_of(spec, 4, 49, seed=3)
    losses = []
    for _ in range(5):
        pair = [token_loss(ours, ours(tokens[:, :-1]), tokens[:, 1:]), theirs(tokens, labels=tokens).loss]
        for loss, optimizer in zip(pair, optimizers, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append([loss.item() for loss in pair])
    assert all(left == pytest.approx(right, abs=TOLERANCE) for left, right in losses), losses
    assert losses[4][0] < losses[0][0] - 0.1
    # The end-of-text row is trained too; a padding index would freeze it.
    embedding = theirs.get_input_embeddings().weight.detach()
    assert largest_difference(ours.embedding.weight.detach()[0], embedding[0]) <= 1e-2
    assert not torch.equal(embedding[0], model_of(spec).embedding.weight[0])


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("dense", {"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}),
        ("dense", {"rms_norm_eps": 0.1}),
        ("dense, classic", {"activation_function": "relu"}),
        ("mamba", {"time_step_limit": [0.0, 0.01]}),
        ("moe", {"num_experts_per_tok": 1}),
        ("hybrid", {"sliding_window": 25}),
        ("hybrid", {"attention_multiplier": 1.0}),
        ("jamba", {"residual_multiplier": 0.9}),
    ],
)
@torch.no_grad()
def test_comparison_detects_a_wrong_setting(
    case: str, change: dict[str, Any], transformers: Any, tmp_path: Path
) -> None:
    spec = spec_of(case)
    model = model_of(spec)
    out = exported(tmp_path / "out", model)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    (out / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    tokens = tokens_of(spec, 2, LENGTH)
    assert largest_difference(model.logits(tokens), load(transformers, out)(tokens).logits) > 10 * TOLERANCE


@pytest.mark.parametrize("size", ["micro", pytest.param("tiny", marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", sorted(path.stem for path in (CONF / "architecture").glob("*.yaml")))
def test_every_architecture_but_one_control_has_a_mapping(architecture: str, size: str) -> None:
    config = composed(architecture, "modern", f"size={size}")
    sizes = (config.architecture, config.size, config.recipe)
    spec = match_size(*sizes, vocab_size=4096, seq_len=config.training.seq_len, match="active").spec
    if architecture == "dense_conv":
        with pytest.raises(UserError, match="blocks conv_attention, mlp: no class of transformers has these"):
            mapping_of(spec)
    else:
        assert mapping_of(spec)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (spec_of("mamba", norm="layernorm"), "norm=layernorm: Mamba2ForCausalLM needs norm=rmsnorm"),
        (spec_of("moe", **CLASSIC), "norm=layernorm: MixtralForCausalLM needs norm=rmsnorm, position=rope"),
        (spec_of("hybrid", **CLASSIC), "norm=layernorm: HybridForCausalLM needs norm=rmsnorm, position=rope"),
        (spec_of("dense", norm="layernorm"), "position=rope: GPT2LMHeadModel needs norm=layernorm, position=learned"),
        (spec_of("dense", position="learned"), "position=learned: LlamaForCausalLM needs norm=rmsnorm, position=rope"),
        (spec_of("dense", mlp="gelu"), "mlp=gelu: LlamaForCausalLM needs"),
        (spec_of("dense", bias=True), "bias=true: LlamaForCausalLM needs"),
        (spec_of("dense, classic", bias=False), "bias=false: GPT2LMHeadModel needs"),
        (spec_of("dense", query_heads=6), "n_heads=6: LlamaForCausalLM needs a divisor of d_model=64"),
        (spec_of("dense, classic", kv_heads=2), "n_kv_heads=2: GPT2LMHeadModel has no grouped heads"),
        (spec_of("dense, classic", query_heads=6), "n_heads=6: GPT2LMHeadModel has no wide heads"),
        (spec_of("hybrid", qkv_bias=True), "qkv_bias=true: HybridForCausalLM has no qkv biases"),
        (spec_of("moe", qkv_bias=True), "qkv_bias=true: MixtralForCausalLM has no qkv biases"),
        (spec_of("moe", top_k=1), "top_k=1: MixtralForCausalLM always gives a single expert the weight 1"),
        (spec_of("moe_hybrid", top_k=1), "top_k=1: HybridForCausalLM"),
        (spec_of("moe", router_bias_rate=0.001), "router_bias_rate=0.001: MixtralForCausalLM has no router bias"),
        (spec_of("mamba", d_inner=144), "d_inner=144: Mamba2ForCausalLM needs a multiple of d_model=64"),
        (spec_of("hybrid", d_inner=144), "d_inner=144: HybridForCausalLM needs a multiple of d_model=64"),
        (replace(spec_of("dense"), blocks=("mlp", "attention")), "blocks mlp, attention: no class of transformers"),
        (replace(spec_of("dense"), blocks=("attention", "mlp", "attention")), "no class of transformers"),
        (replace(spec_of("dense"), blocks=("mamba1", "mlp")), "blocks mamba1, mlp: no class of transformers"),
    ],
)
def test_model_without_a_mapping_is_rejected(spec: ModelSpec, expected: str) -> None:
    with pytest.raises(UserError) as error:
        mapping_of(spec)
    assert expected in str(error.value) and "\n" not in str(error.value)
