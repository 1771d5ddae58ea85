"""The contract of every architecture of conf/, in every recipe; a new architecture is tested automatically."""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from src.config.schema import ModelSpec, OptimizerConfig
from src.model.blocks.mamba1.cost import MAMBA1_SCAN_FLOPS, dt_rank
from src.model.build import build_model
from src.model.cost.model_cost import model_cost
from src.model.language_model import LanguageModel, token_loss
from src.training.checkpoint import load_weights, read_checkpoint, save_checkpoint
from src.training.optimizers import build_optimizer
from src.training.progress import Progress
from tests.contract.small import (
    CASES,
    SEQ_LEN,
    VOCAB_SIZE,
    composed,
    random_tokens,
    small_model,
    small_spec,
)
from tests.reference.documents import packed_ids

pytestmark = pytest.mark.parametrize(("architecture", "recipe"), CASES)


@pytest.fixture
def model(architecture: str, recipe: str) -> LanguageModel:
    return small_model(architecture, recipe)


def loss_of(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Return the training loss on tokens (B, T + 1), including auxiliary losses."""
    output = model(tokens[:, :-1])
    loss = token_loss(model, output, tokens[:, 1:])
    return loss if output.aux_loss is None else loss + output.aux_loss


def gradients(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model, tokens).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def test_model_has_the_whole_pattern(model: LanguageModel, architecture: str, recipe: str) -> None:
    pattern = composed(architecture, recipe).architecture.pattern
    assert set(model.spec.blocks) == set(pattern)
    assert model.spec.blocks == tuple(pattern[i % len(pattern)] for i in range(len(model.blocks)))


def test_outputs_are_causal(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN)
    before = model.logits(tokens)
    for t in (0, 1, 15, 16, 17, 40, SEQ_LEN - 1):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % model.spec.vocab_size
        after = model.logits(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=2e-6)
        assert not torch.allclose(after[:, t], before[:, t], atol=1e-4), "the current token changes the output"


def test_sequences_of_a_batch_are_independent(model: LanguageModel) -> None:
    tokens = random_tokens(3, SEQ_LEN)
    alone = torch.cat([model.logits(row[None]) for row in tokens])
    torch.testing.assert_close(model.logits(tokens), alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("prefill", [1, 2, 17, 50])
def test_prefill_and_decoding_equal_the_full_pass(model: LanguageModel, prefill: int) -> None:
    """Beyond the window (16), over several chunks (16), and with a prefill shorter than the convolution (4)."""
    length = 70
    tokens = random_tokens(2, length)
    with torch.no_grad():
        whole = model.logits(tokens)
        cache = model.make_cache(2, length)
        parts = [model.logits(tokens[:, :prefill], cache)]
        parts += [model.logits(tokens[:, t : t + 1], cache) for t in range(prefill, length)]
    assert cache.offset == length
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


LENGTHS = ((23, 25, 16), (2, 30, 32))
"""Of the documents in two rows: one begins within a chunk and a window (16), one at their start, one within the first
taps of the convolution (4), and three are longer than a window."""


def packed() -> tuple[Tensor, Tensor]:
    """Return tokens and their document ids, (2, SEQ_LEN) each."""
    return random_tokens(2, SEQ_LEN), torch.cat([packed_ids(lengths, 1) for lengths in LENGTHS])


def run_separately(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Run each document of the packed tokens separately, and concatenate the hidden states."""
    rows = zip(tokens, LENGTHS, strict=True)
    return torch.stack([torch.cat([model(part[None]).hidden[0] for part in row.split(cuts)]) for row, cuts in rows])


def test_masked_documents_equal_separate_documents(model: LanguageModel) -> None:
    tokens, documents = packed()
    found, expected = model(tokens, documents=documents).hidden, run_separately(model, tokens)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    # Gradients of the shared weights, along a random direction.
    direction, names = torch.randn_like(found), [name for name, _ in model.named_parameters() if name != "head.weight"]
    weights = [model.get_parameter(name) for name in names]
    ours, theirs = (torch.autograd.grad((hidden * direction).sum(), weights) for hidden in (found, expected))
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()), msg=name)


def test_single_document_equals_no_masking(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN)
    found = model(tokens, documents=torch.ones_like(tokens)).hidden
    torch.testing.assert_close(found, model(tokens).hidden, rtol=1e-4, atol=1e-5)


def test_documents_do_not_affect_the_next(model: LanguageModel) -> None:
    """Exactly; except that a product of experts may round differently with another number of rows."""
    tokens, documents = packed()
    changed = torch.where(documents == 0, (tokens + 1) % model.spec.vocab_size, tokens)
    before, after = (model(each, documents=documents).hidden for each in (tokens, changed))
    assert not torch.allclose(after[documents == 0], before[documents == 0], atol=1e-3)
    atol = 2e-6 if "moe" in model.spec.blocks else 0
    torch.testing.assert_close(after[documents > 0], before[documents > 0], rtol=0, atol=atol)


def test_chunk_size_does_not_change_the_output(architecture: str, recipe: str) -> None:
    tokens = random_tokens(2, 50)
    models = []
    for chunk in (1, 16, 64):
        spec = ModelSpec(**{**vars(small_spec(architecture, recipe)), "chunk_size": chunk})
        models.append(build_model(spec, seed=0).logits(tokens))
    torch.testing.assert_close(models[0], models[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(models[2], models[1], rtol=1e-4, atol=1e-5)


def test_every_parameter_has_a_gradient(model: LanguageModel) -> None:
    tokens = random_tokens(4, SEQ_LEN + 1)
    loads = model(tokens[:, :-1]).expert_load
    mixtures = [i for i, kind in enumerate(model.spec.blocks) if kind == "moe"]
    chosen = {f"blocks.{i}.{name}": loads[n] > 0 for n, i in enumerate(mixtures) for name in ("w_in", "w_out")}
    found = gradients(model, tokens)
    for name, parameter in model.named_parameters():
        gradient = found[name]
        assert gradient.isfinite().all(), name
        if name == "embedding.weight":  # the rows of tokens that occur
            assert (gradient[tokens[:, :-1].unique()].abs().sum(dim=1) > 0).all()
        elif name == "positions.weight":
            assert (gradient[:SEQ_LEN].abs().sum(dim=1) > 0).all()
        elif name in chosen:
            assert torch.equal(gradient.flatten(1).any(dim=1), chosen[name]), name
        elif name.endswith("qkv.bias"):  # not the key bias, which shifts all scores of a query equally
            query, _, value = gradient.split(model.packed_projections()[name.replace("bias", "weight")])
            assert query.any() and value.any(), name
        else:
            assert gradient.any(), name
        assert parameter.shape == gradient.shape


def test_parameters_equal_the_formula(model: LanguageModel) -> None:
    cost = model_cost(model.spec, SEQ_LEN)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    outside = sum(sizes.get(name, 0) for name in ("embedding.weight", "positions.weight", "head.weight"))
    unused = 1 - model.spec.top_k / model.spec.n_experts
    inactive = sum(size * unused for name, size in sizes.items() if name.endswith((".w_in", ".w_out")))
    assert cost.total_params == sum(sizes.values())
    assert cost.embedding_params == outside
    assert cost.non_embedding_params == sum(sizes.values()) - outside
    assert cost.active_params == sum(sizes.values()) - inactive
    assert cost.active_non_embedding_params == sum(sizes.values()) - outside - inactive


def test_tied_head_uses_the_embedding(architecture: str, recipe: str, tmp_path: Path) -> None:
    """It is stored, counted and updated once; matching does not count it; a copy has the head of its own embedding."""
    untied = small_spec(architecture, recipe)
    model = build_model(replace(untied, tie_embeddings=True), seed=0)
    names = {name for name, _ in model.named_parameters()}
    assert "head.weight" not in names and names == model.state_dict().keys() - _buffers(model)
    assert "embedding.weight" in model.no_decay()
    cost, whole = model_cost(model.spec, SEQ_LEN), model_cost(untied, SEQ_LEN)
    assert cost.total_params == sum(parameter.numel() for parameter in model.parameters())
    assert cost.total_params == whole.total_params - VOCAB_SIZE * untied.d_model
    assert cost.active_non_embedding_params == whole.active_non_embedding_params
    assert cost.forward_flops_per_token == whole.forward_flops_per_token

    tokens = random_tokens(2, SEQ_LEN + 1)
    hidden = model(tokens[:, :-1]).hidden
    torch.testing.assert_close(model.logits(tokens[:, :-1]), hidden @ model.embedding.weight.T)
    found = gradients(model, tokens)
    assert found.keys() == names
    absent = torch.ones(VOCAB_SIZE, dtype=torch.bool).index_fill(0, tokens[:, :-1].unique(), False)
    assert found["embedding.weight"][absent].abs().sum(dim=1).all(), (
        "the head gives gradients to tokens that are not in the text"
    )

    save_checkpoint(tmp_path / "last", model, Progress("language"), tokenizer_sha256="0", run="a")
    info = read_checkpoint(tmp_path / "last")
    again = build_model(info.spec, seed=1)
    load_weights(info, again)
    assert torch.equal(again.logits(tokens), model.logits(tokens))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        copied.embedding.weight.zero_()
    assert not copied.head.weight.any() and model.head.weight.any()


def _buffers(model: LanguageModel) -> set[str]:
    return {name for name, _ in model.named_buffers()}


def uncounted_scan_flops(spec: ModelSpec, torch_counts: int, passes: int) -> int:
    """Return the FLOPs per token that `cost` counts for Mamba-1's scans and torch does not.

    torch counts no element-wise work, only products of 2 d_inner d_state each: the one with C, and in the backward pass
    the gradients of C, of B and of the input. MAMBA1_SCAN_FLOPS includes everything.
    """
    scanned = spec.blocks.count("mamba1") * spec.d_inner * spec.d_state
    return (passes * MAMBA1_SCAN_FLOPS - 2 * torch_counts) * scanned


def triangular_solve_flops(a_shape: Sequence[int], b_shape: Sequence[int], *_: object, **__: object) -> int:
    """Count a triangular solve, which torch counts as zero, as the product of its matrix and its solution."""
    return 2 * math.prod(b_shape) * a_shape[-1]


FLOP_FORMULAS = {torch.ops.aten.linalg_solve_triangular: triangular_solve_flops}


@pytest.mark.usefixtures("without_cpu_kernels")
@pytest.mark.parametrize("length", [SEQ_LEN, 50, 9])
def test_executed_flops_equal_those_counted_by_torch(model: LanguageModel, length: int) -> None:
    """Exactly, with whole and padded windows and chunks; training has two more products for each, and recomputation."""
    tokens = random_tokens(2, length + 1)
    cost = model_cost(model.spec, length)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        logits = model.logits(tokens[:, :-1])
        forward = counter.get_total_flops()
        convolution = counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution, 0)
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    counts = counter.get_flop_counts()["Global"]
    # torch counts the gradient of a depthwise convolution as that of a full one; it is two products.
    wrong = counts.get(torch.ops.aten.convolution_backward, 0) - 2 * convolution
    training = counter.get_total_flops() - wrong
    forward_per_token = forward / (2 * length) + uncounted_scan_flops(model.spec, torch_counts=1, passes=1)
    training_per_token = training / (2 * length) + uncounted_scan_flops(model.spec, torch_counts=4, passes=3)
    assert forward_per_token == pytest.approx(cost.executed_forward_flops_per_token, rel=1e-12)
    if length > model.spec.chunk_size:  # a single chunk has no gradient of its initial state
        assert training_per_token == pytest.approx(cost.executed_train_flops_per_token(), rel=0.01)
    assert cost.forward_flops_per_token <= cost.executed_forward_flops_per_token


def test_state_bytes_equal_the_cache(model: LanguageModel) -> None:
    for context_len in (8, SEQ_LEN):
        cache = model.make_cache(1, context_len)
        tensors = [value for block in cache.blocks if block for value in vars(block).values()]
        n_bytes = sum(value.nbytes for value in tensors if isinstance(value, Tensor))
        assert n_bytes == model_cost(model.spec, context_len).state_bytes


KINDS_TESTED_HERE = {"attention", "sliding_attention", "mlp", "moe", "mamba", "mamba1"}


def is_of_another_kind(name: str, model: LanguageModel) -> bool:
    """Return whether a parameter belongs to a kind whose initialization is tested with the kind itself."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return found is not None and model.spec.blocks[int(found[1])] not in KINDS_TESTED_HERE


def test_initialization(model: LanguageModel) -> None:
    """Standard deviations by name; a sample of n has a standard error of std / sqrt(2 n)."""
    into = 0.02
    out = 0.02 / math.sqrt(len(model.blocks))
    spreads = {
        "embedding.weight": into,
        "positions.weight": into,
        "head.weight": min(0.02, 0.5 / math.sqrt(model.spec.d_model)),
        "qkv.weight": into,
        "in_proj.weight": into,
        "x_proj.weight": into,
        "dt_proj.weight": (3 * dt_rank(model.spec)) ** -0.5,  # uniform on +-1/sqrt(R)
        "router.weight": into,
        "w_in.weight": into,
        "w_in": into,
        "out.weight": out,
        "out_proj.weight": out,
        "w_out.weight": out,
        "w_out": out,
        "conv_weight": 0.5 / math.sqrt(3),  # uniform on +-1/sqrt(K), K = 4
        "conv_bias": 0.5 / math.sqrt(3),
    }
    for name, parameter in model.named_parameters():
        short = ".".join(part for part in name.split(".") if part not in ("blocks", "norms") and not part.isdigit())
        if short in spreads:
            close = 5 / math.sqrt(2 * parameter.numel())
            assert parameter.std().item() == pytest.approx(spreads[short], rel=close), name
            assert abs(parameter.mean().item()) < 5 * spreads[short] / math.sqrt(parameter.numel()), name
        elif short == "A_log" and parameter.ndim == 2:  # Mamba-1: 1..N in every channel
            expected = torch.arange(1.0, model.spec.d_state + 1).expand(model.spec.d_inner, -1)
            torch.testing.assert_close(parameter.exp(), expected, rtol=1e-6, atol=0)
        elif short == "A_log":
            assert parameter.min() >= 0 and parameter.max() <= math.log(16), name
            assert parameter.exp().std() > 1, name
        elif short == "dt_bias":
            dt = F.softplus(parameter)
            assert dt.min() >= 1e-3 * 0.999 and dt.max() <= 1e-1 * 1.001, name
            assert dt.log().std() > 0.3, name
        elif short == "D" or "norm" in short or (short == "weight" and "norms" in name):
            expected = torch.zeros if short.endswith("bias") else torch.ones
            assert torch.equal(parameter, expected(parameter.shape)), name
        elif not is_of_another_kind(name, model):
            assert short.endswith("bias") and not parameter.any(), f"{name}: not listed above"


@pytest.mark.parametrize("d_model", [64, 640])
def test_initial_loss_is_that_of_a_uniform_prediction(architecture: str, recipe: str, d_model: int) -> None:
    """ln(vocab_size) within 2%, at widths on both sides of where the head's std begins to decrease.

    Averaged over every token as the target: 128 random ones would add noise of 0.5%.
    """
    changes = {"d_model": d_model, "vocab_size": 4096, "head_dim": 64, "blocks": small_spec(architecture).blocks[:4]}
    spec = ModelSpec(**{**vars(small_spec(architecture, recipe)), **changes})
    model = build_model(spec, seed=0)
    with torch.no_grad():
        logits = model.logits(random_tokens(2, SEQ_LEN, vocab_size=4096))
    loss = (logits.logsumexp(dim=-1) - logits.mean(dim=-1)).mean()
    assert loss.item() == pytest.approx(math.log(4096), rel=0.02)


def test_parameters_without_weight_decay(model: LanguageModel) -> None:
    not_decayed = ("A_log", "D", "dt_bias", "norm_weight")
    expected = {
        name
        for name, _ in model.named_parameters()
        if name.endswith(("bias", *(f".{last}" for last in not_decayed)))
        or name in ("embedding.weight", "positions.weight")
        or name.startswith(("norms.", "final_norm."))
        or (is_of_another_kind(name, model) and name in model.no_decay())
    }
    assert model.no_decay() == expected
    config = OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.1)
    decayed, excluded = build_optimizer(model, config).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[parameter] for parameter in excluded["params"]} == expected
    assert {names[parameter] for parameter in decayed["params"]} == set(names.values()) - expected
    assert (decayed["weight_decay"], excluded["weight_decay"]) == (0.1, 0.0)


def test_activation_checkpointing_is_exact(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN + 1)
    plain_loss, plain = loss_of(model, tokens), gradients(model, tokens)
    model.activation_checkpointing = True
    assert torch.equal(loss_of(model, tokens), plain_loss)
    recomputed = gradients(model, tokens)
    assert recomputed.keys() == plain.keys()
    assert all(torch.equal(recomputed[name], plain[name]) for name in plain)


def test_bf16_is_close_to_fp32(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN + 1)
    exact, expected = loss_of(model, tokens), gradients(model, tokens)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, tokens)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    total = math.sqrt(sum(float(gradient.square().sum()) for gradient in expected.values()))
    squared_error = 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name
        squared_error += float((parameter.grad - expected[name]).square().sum())
    assert math.sqrt(squared_error) < 0.05 * total


def test_weights_are_a_function_of_the_seed(architecture: str, recipe: str) -> None:
    first, again = small_model(architecture, recipe, 3).state_dict(), small_model(architecture, recipe, 3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = small_model(architecture, recipe, 4).state_dict()
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_shared_weights_of_equal_seed_are_equal(architecture: str, recipe: str) -> None:
    """Embedding, head and norms, and equal blocks at equal places, such as those of dense and moe."""
    dense, model = small_model("dense", recipe).state_dict(), small_model(architecture, recipe).state_dict()
    shared = [name for name in dense if name.startswith(("embedding", "head", "final_norm"))]
    assert len(shared) >= 3 and all(torch.equal(dense[name], model[name]) for name in shared)
    blocks = zip(small_spec("dense", recipe).blocks, small_spec(architecture, recipe).blocks, strict=False)
    same = [f"blocks.{index}.qkv.weight" for index, pair in enumerate(blocks) if pair == ("attention", "attention")]
    assert all(torch.equal(dense[name], model[name]) for name in same)
    assert bool(same) == (architecture in ("dense", "moe"))
    other = small_model(architecture, recipe, seed=1).state_dict()
    assert not torch.equal(other["head.weight"], dense["head.weight"])


def test_copy_shares_no_weights(model: LanguageModel) -> None:
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1)
    assert not any(torch.equal(one, two) for one, two in zip(model.parameters(), copied.parameters(), strict=True))
