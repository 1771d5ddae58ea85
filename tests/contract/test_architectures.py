"""What every architecture of conf/ has to fulfil, in every recipe: a new one is tested by being there."""

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
from src.training.checkpoint import Progress, load_weights, read_checkpoint, save_checkpoint
from src.training.optimizers import build_optimizer
from tests.contract.small import (
    ARCHITECTURES,
    RECIPES,
    SEQ_LEN,
    VOCAB_SIZE,
    composed,
    random_tokens,
    small_model,
    small_spec,
)
from tests.reference.documents import packed_ids

pytestmark = [pytest.mark.parametrize("recipe", RECIPES), pytest.mark.parametrize("architecture", ARCHITECTURES)]


@pytest.fixture
def model(architecture: str, recipe: str) -> LanguageModel:
    return small_model(architecture, recipe)


def loss_of(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Return what training minimises on tokens (B, T + 1)."""
    output = model(tokens[:, :-1])
    loss = token_loss(model, output, tokens[:, 1:])
    return loss if output.aux_loss is None else loss + output.aux_loss


def gradients(model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss_of(model, tokens).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    return {name: gradient for name, gradient in found.items() if gradient is not None}


def test_the_pattern_is_whole(model: LanguageModel, architecture: str, recipe: str) -> None:
    pattern = composed(architecture, recipe).architecture.pattern
    assert set(model.spec.blocks) == set(pattern)
    assert model.spec.blocks == tuple(pattern[i % len(pattern)] for i in range(len(model.blocks)))


def test_the_future_changes_nothing(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN)
    before = model.logits(tokens)
    for t in (0, 1, 15, 16, 17, 40, SEQ_LEN - 1):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % model.spec.vocab_size
        after = model.logits(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=2e-6)
        assert not torch.allclose(after[:, t], before[:, t], atol=1e-4), "the present does"


def test_sequences_of_a_batch_do_not_meet(model: LanguageModel) -> None:
    tokens = random_tokens(3, SEQ_LEN)
    alone = torch.cat([model.logits(row[None]) for row in tokens])
    torch.testing.assert_close(model.logits(tokens), alone, rtol=0, atol=2e-6)


@pytest.mark.parametrize("prefill", [1, 2, 17, 50])
def test_prefill_and_steps_equal_the_whole(model: LanguageModel, prefill: int) -> None:
    """Past the window (16), over several chunks (16), and with a prefill shorter than the convolution (4)."""
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
"""Of the documents in two rows: one begins within a chunk and a window (16), one where they begin, one among the first
taps of the convolution (4), and three are longer than a window."""


def packed() -> tuple[Tensor, Tensor]:
    """Return tokens and the numbers of their documents, (2, SEQ_LEN) each."""
    return random_tokens(2, SEQ_LEN), torch.cat([packed_ids(lengths, 1) for lengths in LENGTHS])


def alone(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Run each document of the packed tokens by itself, and put the hidden states together."""
    rows = zip(tokens, LENGTHS, strict=True)
    return torch.stack([torch.cat([model(part[None]).hidden[0] for part in row.split(cuts)]) for row, cuts in rows])


def test_documents_are_computed_as_if_alone(model: LanguageModel) -> None:
    tokens, documents = packed()
    found, wanted = model(tokens, documents=documents).hidden, alone(model, tokens)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    # The gradient of what the documents have in common, along a random direction.
    direction, names = torch.randn_like(found), [name for name, _ in model.named_parameters() if name != "head.weight"]
    weights = [model.get_parameter(name) for name in names]
    ours, theirs = (torch.autograd.grad((hidden * direction).sum(), weights) for hidden in (found, wanted))
    for name, one, other in zip(names, ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()), msg=name)


def test_one_document_is_the_whole_window(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN)
    found = model(tokens, documents=torch.ones_like(tokens)).hidden
    torch.testing.assert_close(found, model(tokens).hidden, rtol=1e-4, atol=1e-5)


def test_a_document_leaves_the_next_as_it_was(model: LanguageModel) -> None:
    """To the bit; but a product of experts over more rows or fewer may round otherwise."""
    tokens, documents = packed()
    changed = torch.where(documents == 0, (tokens + 1) % model.spec.vocab_size, tokens)
    before, after = (model(each, documents=documents).hidden for each in (tokens, changed))
    assert not torch.allclose(after[documents == 0], before[documents == 0], atol=1e-3)
    atol = 2e-6 if "moe" in model.spec.blocks else 0
    torch.testing.assert_close(after[documents > 0], before[documents > 0], rtol=0, atol=atol)


def test_chunks_are_a_matter_of_speed(architecture: str, recipe: str) -> None:
    tokens = random_tokens(2, 50)
    models = []
    for chunk in (1, 16, 64):
        spec = ModelSpec(**{**vars(small_spec(architecture, recipe)), "chunk_size": chunk})
        models.append(build_model(spec, seed=0).logits(tokens))
    torch.testing.assert_close(models[0], models[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(models[2], models[1], rtol=1e-4, atol=1e-5)


def test_every_parameter_learns(model: LanguageModel) -> None:
    tokens = random_tokens(4, SEQ_LEN + 1)
    loads = model(tokens[:, :-1]).expert_load
    mixtures = [i for i, kind in enumerate(model.spec.blocks) if kind == "moe"]
    chosen = {f"blocks.{i}.{name}": loads[n] > 0 for n, i in enumerate(mixtures) for name in ("w_in", "w_out")}
    found = gradients(model, tokens)
    for name, parameter in model.named_parameters():
        gradient = found[name]
        assert gradient.isfinite().all(), name
        if name == "embedding.weight":  # the rows of tokens that are there
            assert (gradient[tokens[:, :-1].unique()].abs().sum(dim=1) > 0).all()
        elif name == "positions.weight":
            assert (gradient[:SEQ_LEN].abs().sum(dim=1) > 0).all()
        elif name in chosen:
            assert torch.equal(gradient.flatten(1).any(dim=1), chosen[name]), name
        elif name.endswith("qkv.bias"):  # not the keys': it moves all scores of a query alike
            query, _, value = gradient.chunk(3)
            assert query.any() and value.any(), name
        else:
            assert gradient.any(), name
        assert parameter.shape == gradient.shape


def test_parameters_equal_the_closed_form(model: LanguageModel) -> None:
    cost = model_cost(model.spec, SEQ_LEN)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    outside = sum(sizes.get(name, 0) for name in ("embedding.weight", "positions.weight", "head.weight"))
    idle = 1 - model.spec.top_k / model.spec.n_experts
    resting = sum(size * idle for name, size in sizes.items() if name.endswith((".w_in", ".w_out")))
    assert cost.total_params == sum(sizes.values())
    assert cost.embedding_params == outside
    assert cost.non_embedding_params == sum(sizes.values()) - outside
    assert cost.active_params == sum(sizes.values()) - resting
    assert cost.active_non_embedding_params == sum(sizes.values()) - outside - resting


def test_a_tied_head_is_the_embedding(architecture: str, recipe: str, tmp_path: Path) -> None:
    """Stored, counted and updated once; outside of matching as before; and a copy has a head of its own embedding."""
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
    assert found["embedding.weight"][absent].abs().sum(dim=1).all(), "the head teaches tokens that are not in the text"

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


def unseen_scan_flops(spec: ModelSpec, torch_counts: int, passes: int) -> int:
    """What `costs` charges for Mamba-1's scans beyond what torch counts of them, per token.

    The scan is element-wise work, which torch counts as nothing, around products of 2 d_inner d_state each: the one
    with C, and in the backward pass the gradients of C, of B and of the input. All else of it is in MAMBA1_SCAN_FLOPS.
    """
    scanned = spec.blocks.count("mamba1") * spec.d_inner * spec.d_state
    return (passes * MAMBA1_SCAN_FLOPS - 2 * torch_counts) * scanned


def solving_flops(a_shape: Sequence[int], b_shape: Sequence[int], *_: object, **__: object) -> int:
    """Charge a triangular system, which torch counts as nothing, as the product of its matrix and its solution."""
    return 2 * math.prod(b_shape) * a_shape[-1]


SOLVING = {torch.ops.aten.linalg_solve_triangular: solving_flops}


@pytest.mark.usefixtures("without_cpu_kernels")
@pytest.mark.parametrize("length", [SEQ_LEN, 50, 9])
def test_executed_flops_are_those_that_torch_counts(model: LanguageModel, length: int) -> None:
    """Exactly: with whole and with padded windows and chunks; in training two products more for each."""
    tokens = random_tokens(2, length + 1)
    cost = model_cost(model.spec, length)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=SOLVING) as counter:
        logits = model.logits(tokens[:, :-1])
        forward = counter.get_total_flops()
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    counts = counter.get_flop_counts()["Global"]
    # torch charges the gradient of a depthwise convolution as that of a full one; it has two products like any other.
    wrong = counts.get(torch.ops.aten.convolution_backward, 0) - 2 * counts.get(torch.ops.aten.convolution, 0)
    training = counter.get_total_flops() - wrong
    forward_per_token = forward / (2 * length) + unseen_scan_flops(model.spec, torch_counts=1, passes=1)
    training_per_token = training / (2 * length) + unseen_scan_flops(model.spec, torch_counts=4, passes=3)
    assert forward_per_token == pytest.approx(cost.executed_forward_flops_per_token, rel=1e-12)
    if length > model.spec.chunk_size:  # in a single chunk, no gradient goes to the state that it starts from
        assert training_per_token == pytest.approx(3 * cost.executed_forward_flops_per_token, rel=0.01)
    assert cost.forward_flops_per_token <= cost.executed_forward_flops_per_token


def test_state_bytes_are_those_of_the_cache(model: LanguageModel) -> None:
    for context_len in (8, SEQ_LEN):
        cache = model.make_cache(1, context_len)
        kept = [value for block in cache.blocks if block for value in vars(block).values()]
        n_bytes = sum(value.nbytes for value in kept if isinstance(value, Tensor))
        assert n_bytes == model_cost(model.spec, context_len).state_bytes


KINDS_STATED_HERE = {"attention", "sliding_attention", "mlp", "moe", "mamba", "mamba1"}


def is_of_another_kind(name: str, model: LanguageModel) -> bool:
    """Tell whether a parameter belongs to a kind whose initial values are tested with the kind itself."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return found is not None and model.spec.blocks[int(found[1])] not in KINDS_STATED_HERE


def test_init_survives_construction(model: LanguageModel) -> None:
    """Standard deviations by name; a draw of n has a standard error of std / sqrt(2 n)."""
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
            wanted = torch.arange(1.0, model.spec.d_state + 1).expand(model.spec.d_inner, -1)
            torch.testing.assert_close(parameter.exp(), wanted, rtol=1e-6, atol=0)
        elif short == "A_log":
            assert parameter.min() >= 0 and parameter.max() <= math.log(16), name
            assert parameter.exp().std() > 1, name
        elif short == "dt_bias":
            dt = F.softplus(parameter)
            assert dt.min() >= 1e-3 * 0.999 and dt.max() <= 1e-1 * 1.001, name
            assert dt.log().std() > 0.3, name
        elif short == "D" or "norm" in short or (short == "weight" and "norms" in name):
            wanted = torch.zeros if short.endswith("bias") else torch.ones
            assert torch.equal(parameter, wanted(parameter.shape)), name
        elif not is_of_another_kind(name, model):
            assert short.endswith("bias") and not parameter.any(), f"{name}: what is it?"


@pytest.mark.parametrize("d_model", [64, 640])
def test_the_first_loss_is_that_of_a_guess(architecture: str, recipe: str, d_model: int) -> None:
    """ln(vocab_size) within 2%, at widths on both sides of where the head's std begins to shrink.

    Averaged over every token as the target: 128 drawn ones would add noise of 0.5%.
    """
    changes = {"d_model": d_model, "vocab_size": 4096, "head_dim": 64, "blocks": small_spec(architecture).blocks[:4]}
    spec = ModelSpec(**{**vars(small_spec(architecture, recipe)), **changes})
    model = build_model(spec, seed=0)
    with torch.no_grad():
        logits = model.logits(random_tokens(2, SEQ_LEN, vocab_size=4096))
    loss = (logits.logsumexp(dim=-1) - logits.mean(dim=-1)).mean()
    assert loss.item() == pytest.approx(math.log(4096), rel=0.02)


def test_decay_spares_exactly_what_it_should(model: LanguageModel) -> None:
    spared = ("A_log", "D", "dt_bias", "norm_weight")
    wanted = {
        name
        for name, _ in model.named_parameters()
        if name.endswith(("bias", *(f".{last}" for last in spared)))
        or name in ("embedding.weight", "positions.weight")
        or name.startswith(("norms.", "final_norm."))
        or (is_of_another_kind(name, model) and name in model.no_decay())
    }
    assert model.no_decay() == wanted
    config = OptimizerConfig(name="adamw", learning_rate=1e-3, weight_decay=0.1)
    decayed, left = build_optimizer(model, config).param_groups
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[parameter] for parameter in left["params"]} == wanted
    assert {names[parameter] for parameter in decayed["params"]} == set(names.values()) - wanted
    assert (decayed["weight_decay"], left["weight_decay"]) == (0.1, 0.0)


def test_recomputing_changes_no_bit(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN + 1)
    plain_loss, plain = loss_of(model, tokens), gradients(model, tokens)
    model.activation_checkpointing = True
    assert torch.equal(loss_of(model, tokens), plain_loss)
    recomputed = gradients(model, tokens)
    assert recomputed.keys() == plain.keys()
    assert all(torch.equal(recomputed[name], plain[name]) for name in plain)


def test_bf16_stays_near(model: LanguageModel) -> None:
    tokens = random_tokens(2, SEQ_LEN + 1)
    exact, wanted = loss_of(model, tokens), gradients(model, tokens)
    model.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, tokens)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=2e-3)
    total = math.sqrt(sum(float(gradient.square().sum()) for gradient in wanted.values()))
    apart = 0.0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all(), name
        apart += float((parameter.grad - wanted[name]).square().sum())
    assert math.sqrt(apart) < 0.05 * total


def test_a_seed_is_a_model(architecture: str, recipe: str) -> None:
    first, again = small_model(architecture, recipe, 3).state_dict(), small_model(architecture, recipe, 3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = small_model(architecture, recipe, 4).state_dict()
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_models_of_equal_seed_start_with_equal_shared_weights(architecture: str, recipe: str) -> None:
    """Embedding, head and norms are paired, and so are equal blocks at equal places, such as those of dense and moe."""
    dense, model = small_model("dense", recipe).state_dict(), small_model(architecture, recipe).state_dict()
    shared = [name for name in dense if name.startswith(("embedding", "head", "final_norm"))]
    assert len(shared) >= 3 and all(torch.equal(dense[name], model[name]) for name in shared)
    blocks = zip(small_spec("dense", recipe).blocks, small_spec(architecture, recipe).blocks, strict=False)
    same = [f"blocks.{place}.qkv.weight" for place, pair in enumerate(blocks) if pair == ("attention", "attention")]
    assert all(torch.equal(dense[name], model[name]) for name in same)
    assert bool(same) == (architecture in ("dense", "moe"))
    other = small_model(architecture, recipe, seed=1).state_dict()
    assert not torch.equal(other["head.weight"], dense["head.weight"])


def test_building_twice_and_copying_share_nothing(model: LanguageModel) -> None:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1)
    assert not any(torch.equal(one, two) for one, two in zip(model.parameters(), twin.parameters(), strict=True))
