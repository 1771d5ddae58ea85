"""Operations that need fp32 use it under bf16, and bf16 training follows fp32 training."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from src.config.schema import OptimizerConfig
from src.model.build import build_model
from src.model.language_model import token_loss
from src.runtime.device import Device
from src.training.optimizers import build_optimizer
from src.training.train_step import TrainState, train_step
from tests.contract.small import ARCHITECTURES, RECIPES, SEQ_LEN, random_tokens, small_model, small_spec

BF16 = Device("cpu", "bf16", 1)
EVERYWHERE = {"linear_cross_entropy_batch_chunked"}
NORMS = {"rmsnorm": {"rsqrt", "mean"}, "layernorm": {"native_layer_norm", "native_layer_norm_backward"}}
BLOCKS = {
    "mamba": {"softplus", "softplus_backward", "cumsum", "exp", "bmm", "rsqrt"},  # decays, products and norm
    "mamba1": {"softplus", "softplus_backward", "exp", "addcmul"},
    "moe": {"softmax", "softmax_backward_data", "logsumexp"},
}
NEEDS_DIGITS = EVERYWHERE.union(*NORMS.values(), *BLOCKS.values())


class Dtypes(TorchDispatchMode):
    """Records the types of floating-point inputs and outputs of each operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        for value in (*args, *(result if isinstance(result, tuple) else (result,))):
            if isinstance(value, Tensor) and value.is_floating_point():
                self.seen.setdefault(name, set()).add(value.dtype)
        return result


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sensitive_operations_are_fp32(architecture: str, recipe: str) -> None:
    model, tokens = small_model(architecture, recipe), random_tokens(2, SEQ_LEN + 1)
    with Dtypes() as dtypes:
        with BF16.autocast():
            output = model(tokens[:, :-1])
            loss = token_loss(model, output, tokens[:, 1:])
        (loss if output.aux_loss is None else loss + output.aux_loss).backward()
    expected = (
        EVERYWHERE | NORMS[model.spec.norm] | set().union(*(BLOCKS.get(kind, set()) for kind in model.spec.blocks))
    )
    assert expected <= dtypes.seen.keys()
    narrow = {name: seen for name, seen in dtypes.seen.items() if name in NEEDS_DIGITS and seen != {torch.float32}}
    assert not narrow
    assert torch.bfloat16 in dtypes.seen["mm"], "products are what bf16 is for"


@pytest.mark.usefixtures("without_cpu_kernels")
@pytest.mark.parametrize("architecture", ["mamba", "gated_deltanet"])
def test_products_of_recurrences_are_fp32(architecture: str) -> None:
    """So `runtime.tf32` alone decides whether they use tensor cores, which then add in fp32."""
    model, tokens = small_model(architecture), random_tokens(2, SEQ_LEN)
    with Dtypes() as dtypes:
        with BF16.autocast():
            hidden = model(tokens).hidden
        hidden.float().sum().backward()
    assert dtypes.seen["bmm"] == {torch.float32}


@pytest.mark.parametrize("recipe", RECIPES)
def test_norms_under_autocast_are_exact(recipe: str) -> None:
    """Their kernels convert inputs to fp32, so the types inside do not show earlier rounding."""
    norm, x = small_model("dense", recipe).final_norm, 1 + torch.randn(4, 64)
    with BF16.autocast():
        found = norm(x)
    assert torch.equal(found, norm(x))


def test_attention_sums_in_fp32() -> None:
    """Its softmax is inside one kernel: a sum of 4,096 equal weights in bf16 would stop at 256."""
    q, v = torch.zeros(1, 1, 4096, 16, dtype=torch.bfloat16), torch.ones(1, 1, 4096, 16, dtype=torch.bfloat16)
    assert torch.equal(F.scaled_dot_product_attention(q, q, v, is_causal=True), v)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bf16_training_follows_fp32(architecture: str) -> None:
    """Within 5e-4 over 8 steps; measured at most 1.4e-4, and at least 2e-3 with bf16 logits in the loss."""
    spec = replace(small_spec(architecture), chunk_size=SEQ_LEN)

    def losses(precision: str) -> Tensor:
        device, model = Device("cpu", precision, 1), build_model(spec, seed=0)
        optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=1e-3))
        state, found = TrainState.begin("language", model, optimizer, device), []
        for step in range(8):
            # A few frequent tokens, so that there is something to learn.
            batch = random_tokens(2, SEQ_LEN + 1, step) // 8
            settings: dict[str, Any] = {"micro_batch_size": 2, "grad_clip": 1.0, "device": device}
            found.append(train_step(state, batch, **settings).loss)
        return torch.stack(found)

    exact, rounded = losses("fp32"), losses("bf16")
    assert exact[-1] < exact[0] - 0.2
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=5e-4, atol=0)
