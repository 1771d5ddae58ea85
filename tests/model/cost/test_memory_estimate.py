"""Memory estimates against the tensors that autograd saves, the files on disk, and examples computed by hand."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from src.config.schema import ModelSpec, OptimizerConfig
from src.model.blocks import kind_names, kind_of
from src.model.blocks.kind import Activations, Kind, norm_activations
from src.model.build import build_model
from src.model.cost.memory_estimate import checkpoint_bytes, inference_memory, training_memory
from src.model.cost.model_cost import model_cost
from src.model.size_matching import match_config, match_size
from src.training.checkpoint import save_checkpoint
from src.training.optimizers import build_optimizer
from src.training.progress import Progress
from tests.contract.small import ARCHITECTURES, GROUPED, RECIPES, composed, small_spec
from tests.reference.documents import packed_ids


class SavedTensor:
    """A tensor saved by autograd; it exists as long as its node of the graph."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def spec_of(recipe: str) -> ModelSpec:
    """Return dense in a recipe, or with grouped heads in one."""
    if recipe != "grouped, classic":
        return small_spec("dense", recipe)
    return replace(small_spec("dense", "classic"), query_heads=6, kv_heads=2)


def kept_floats(spec: ModelSpec, batch: int, length: int, documents: Tensor | None = None) -> float:
    """Count the floats that autograd saves in the forward pass of the spec's first block, without weights."""
    model = build_model(spec, seed=0)
    x = torch.randn(batch, length, spec.d_model).requires_grad_()
    alive: weakref.WeakSet[SavedTensor] = weakref.WeakSet()

    def pack(tensor: Tensor) -> SavedTensor:
        saved = SavedTensor(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        y = model.blocks[0](model.norms[0](x), None, documents).y
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    storages = {(part := saved.tensor.untyped_storage()).data_ptr(): part.nbytes() for saved in alive}
    assert y.requires_grad
    return sum(n_bytes for pointer, n_bytes in storages.items() if pointer not in weights) / 4


@pytest.mark.usefixtures("without_cpu_kernels")
@pytest.mark.parametrize("length", [48, 40])
@pytest.mark.parametrize("recipe", [*RECIPES, GROUPED, "grouped, classic"])
@pytest.mark.parametrize("kind", kind_names())
def test_saved_floats_equal_those_of_autograd(kind: str, recipe: str, length: int) -> None:
    """Compared by the difference of two batch sizes, which cancels tables of constant size; all widths differ."""
    spec = replace(spec_of(recipe), blocks=(kind,), d_ff=88, expert_d_ff=56, d_inner=208, d_state=24)
    if GROUPED in recipe:
        spec = replace(spec, n_groups=13)
    per_token = (kept_floats(spec, 4, length) - kept_floats(spec, 2, length)) / (2 * length)
    assert kind_of(kind).activations(spec, length).kept == pytest.approx(per_token, rel=5e-3)


@pytest.mark.parametrize("length", [48, 40, 16])
@pytest.mark.parametrize("recipe", [*RECIPES, GROUPED, "grouped, classic"])
@pytest.mark.parametrize("kind", [kind for kind in kind_names() if "attention" in kind])
def test_weights_that_the_math_kernel_keeps_equal_those_of_autograd(kind: str, recipe: str, length: int) -> None:
    """MPS trains with this kernel, which runs on the CPU as well."""
    spec = replace(spec_of(recipe), blocks=(kind,))
    with sdpa_kernel(SDPBackend.MATH):
        per_token = (kept_floats(spec, 4, length) - kept_floats(spec, 2, length)) / (2 * length)
    plain = kind_of(kind).activations(spec, length)
    assert plain.with_math_attention().kept == pytest.approx(per_token, rel=1e-6)
    assert plain.kept != pytest.approx(per_token, rel=0.01)


@pytest.mark.parametrize("length", [48, 40, 16])
@pytest.mark.parametrize("kind", ["attention", "sliding_attention"])
def test_document_mask_is_saved_once_for_all_heads(kind: str, length: int) -> None:
    spec = replace(small_spec("dense"), blocks=(kind,))
    plain = kept_floats(spec, 4, length) - kept_floats(spec, 2, length)
    few, many = (kept_floats(spec, batch, length, packed_ids((7, length - 7), batch)) for batch in (2, 4))
    masks = (many - few - plain) / (2 * length)
    assert kind_of(kind).activations(spec, length).masks == pytest.approx(masks, rel=1e-3)


@pytest.fixture
def mlp_only(monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """D = 64, V = 260: two mlp blocks with 1,000 floats saved, 10 more in backward and 30 without gradients."""
    kind = replace(kind_of("mlp"), activations=lambda spec, context_len: Activations(1000, 10, 30))
    monkeypatch.setattr("src.model.cost.memory_estimate.kind_of", lambda name: kind if name == "mlp" else kind_of(name))
    return replace(small_spec("dense"), blocks=("mlp", "mlp"))


@pytest.fixture(autouse=True)
def clear_kinds() -> Iterator[None]:
    yield
    kind_of.cache_clear()


def test_step_computed_by_hand(mlp_only: ModelSpec) -> None:
    """T = 1000, B = 2: the peak is at the loss."""
    tokens, params, head = 2000, model_cost(mlp_only, 1000).total_params, 260 * 64
    whole = training_memory(mlp_only, seq_len=1000, micro_batch_size=2, accumulate=False)
    assert norm_activations(mlp_only) == 3 * 64 + 1
    assert whole.parts() == {
        "weights": 4 * params,
        "gradients": 4 * head,
        "optimizer": 8 * params,
        "state": 0,
        "activations": 4 * tokens * (2 * 1000 + 193),
        "workspace": 4 * tokens * (64 + 260 + 64),
    }
    assert whole.total == sum(whole.parts().values())
    summed = training_memory(mlp_only, seq_len=1000, micro_batch_size=2, accumulate=True)
    assert summed.gradients == 4 * (params + head)
    assert summed.total - summed.gradients == whole.total - whole.gradients
    half = training_memory(mlp_only, seq_len=1000, micro_batch_size=2, accumulate=False, precision="bf16")
    assert half.total == whole.total + 2 * params


def test_step_with_activation_checkpointing_computed_by_hand(mlp_only: ModelSpec) -> None:
    tokens, mlp = 2000, kind_of("mlp").cost(mlp_only, 1000).params
    found = training_memory(mlp_only, seq_len=1000, micro_batch_size=2, accumulate=False, activation_checkpointing=True)
    assert found.activations == 4 * tokens * (64 + 1000), "the input of one block and all activations of the other"
    assert found.workspace == 4 * tokens * (10 + 2 * 64)
    assert found.gradients == 4 * (260 * 64 + mlp)


def test_logits_are_computed_in_chunks(mlp_only: ModelSpec) -> None:
    wide = replace(mlp_only, vocab_size=1 << 16)
    small, large = (training_memory(wide, seq_len=64, micro_batch_size=n, accumulate=False) for n in (1, 8))
    per_token = 4 * (2000 + 193 + 64)
    assert large.total - small.total == per_token * 7 * 64, "64 rows of logits for any number of tokens"


def test_inference_computed_by_hand(mlp_only: ModelSpec) -> None:
    prefill, decode = inference_memory(replace(mlp_only, blocks=("mlp", "attention")), context_len=10, batch_size=3)
    attention = 9 * 64
    assert prefill.state == decode.state == 4 * 3 * 2 * 10 * 64
    assert prefill.workspace == 4 * 3 * (10 * (attention + 2 * 64) + 260)
    assert decode.workspace == 4 * 3 * (attention + 2 * 64 + 260)


def test_kind_without_activation_memory_still_has_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(small_spec("dense"), blocks=("mlp",))
    kind_without_memory = Kind("MLP", kind_of("mlp").cost)
    monkeypatch.setattr("src.model.cost.memory_estimate.kind_of", {"mlp": kind_without_memory}.__getitem__)
    estimate = training_memory(spec, seq_len=8, micro_batch_size=1, accumulate=False)
    assert estimate.weights == 4 * model_cost(spec, 8).total_params


@pytest.mark.parametrize("architecture", ["dense", "mamba", "moe"])
def test_checkpoint_sizes_equal_the_estimate(architecture: str, tmp_path: Path) -> None:
    config = composed(architecture, "modern", "size=nano")
    spec = match_size(
        config.architecture, config.size, config.recipe, vocab_size=4096, seq_len=256, match="active"
    ).spec
    model = build_model(spec, seed=0)
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for kind, state in (("best", None), ("last", {"optimizer": optimizer.state_dict()})):
        save_checkpoint(tmp_path / kind, model, Progress("language"), tokenizer_sha256="", run="", state=state)
        n_bytes = sum(path.stat().st_size for path in (tmp_path / kind).iterdir())
        assert n_bytes == pytest.approx(getattr(checkpoint_bytes(spec), kind), rel=0.01)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_an_estimate(architecture: str) -> None:
    spec = small_spec(architecture)
    plain, recomputed = (
        training_memory(spec, seq_len=64, micro_batch_size=8, accumulate=False, activation_checkpointing=again)
        for again in (False, True)
    )
    assert all(kind_of(kind).activations(spec, 64).kept > 3 * spec.d_model for kind in spec.blocks)
    assert recomputed.total < plain.total


@pytest.mark.parametrize("size", ["nano", "micro", "mini", "tiny", "medium", "large", "xlarge"])
def test_what_lean_training_needs_at_1024_tokens(size: str) -> None:
    """Every model on a 48 GB Mac, all but the largest on one with 32 GB, and recurrences in the memory of dense."""
    needed: dict[str, dict[str, int]] = {"full": {}, "lean": {}}
    for architecture in ("dense", "mamba", "moe", "hybrid"):
        spec = match_config(composed(architecture, "modern", f"size={size}", "tokenizer=bpe_32k")).spec
        for memory, found in needed.items():
            found[architecture] = training_memory(
                spec, seq_len=1024, micro_batch_size=1, accumulate=True, memory=memory
            ).total
    lean, full = needed["lean"], needed["full"]
    assert max(lean.values()) < 38e9
    if size != "xlarge":
        assert max(n_bytes for name, n_bytes in lean.items() if (name, size) != ("moe", "large")) < 22.5e9
    if size == "large":
        assert lean["moe"] < 30e9 < full["moe"]
    assert max(full["mamba"], full["hybrid"]) < 1.5 * full["dense"]
