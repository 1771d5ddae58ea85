"""Check on a device what went wrong on devices of other people: `python -m src.doctor`.

| check | a fault that was reported |
|---|---|
| attention, in each precision and with each mask | positions see the future (pytorch#195910) |
| batches of several shapes, one with more than 32,768 tokens | wrong gradients after the shape changes (#177116) |
| vocabularies of 32,000 and 50,257 | wrong gradients of large embeddings (#153957) |
| one batch, trained until it is known | a loss that does not fall, or falls unlike the CPU's |
| memory after 10 and after 50 steps | one cached graph for each new shape, without bound (#181213) |
| compiled against eager | compiled training gives NaN (#171764) |

A reference is computed on the CPU in another way: attention as a whole matrix, a large batch in parts, the loss from
all logits at once. So the checks compare two computations on a machine without an accelerator too.

B, T: batch, position; H: heads; P: head_dim.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec, OptimizerConfig
from src.model.blocks.attention.flex import flex_causal_attention
from src.model.blocks.sliding_attention.module import sliding_attention
from src.model.build import build_model
from src.model.language_model import LanguageModel
from src.profiling.doctor import FUTURE_STARTS, Comparison, check_differences, compute_loss
from src.runtime.device import DTYPES, Device
from src.training.compilation import compile_blocks
from src.training.train_step import train_step
from src.training.trial_step import build_train_state, random_step

HEADS = 2
ATTENTION_SHAPES = ((64, 64), (100, 128))
"""(T, P): kernels of devices are made for these widths."""
WINDOWS = (16, 1 << 10)
"""The second is longer than the text."""
BATCH_SHAPES = ((2, 64), (260, 128), (3, 48), (2, 64))
"""(B, T), in this order; the second has 33,280 tokens."""
PARTS = 10
"""Parts of such a batch that the reference computes one after the other; of a small one its single sequences."""
VOCABULARIES = (32_000, 50_257)
OVERFIT_STEPS, OVERFIT_RATE = 40, 5e-3
WARM_STEPS, GROWTH_STEPS = 10, 50


def compare_attention(device: Device) -> Iterator[Comparison]:
    """Compare attention and its gradients with the whole matrix in fp32, and change what a position must not see."""
    kernels = {"attention": sliding_attention} | (
        {"FlexAttention": flex_causal_attention} if device.has_flex_gradients else {}
    )
    for (name, kernel), (precision, dtype) in product(kernels.items(), DTYPES.items()):
        action = partial(attention_differences, kernel, dtype, device)
        yield check_differences(name, f"{device.kind} {precision}, matrix", f"attention {precision}", action)


def attention_differences(kernel: Callable[..., Tensor], dtype: torch.dtype, device: Device) -> dict[str, float]:
    """Return the largest relative differences over shapes, windows and document masks."""
    worst = {"values": 0.0, "gradient": 0.0, "leak": 0.0}
    for length, width in ATTENTION_SHAPES:
        documents = (torch.arange(length) * 3 // length).expand(2, -1)
        for window, ids in product(WINDOWS, (None, documents)):
            for name, value in _differences(kernel, (2, HEADS, length, width), window, ids, dtype, device).items():
                worst[name] = max(worst[name], value)
    return worst


def _differences(
    kernel: Callable[..., Tensor],
    shape: tuple[int, ...],
    window: int,
    documents: Tensor | None,
    dtype: torch.dtype,
    device: Device,
) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight, new_k, new_v = (torch.randn(shape, generator=generator).to(dtype) for _ in range(6))
    placed = None if documents is None else documents.to(device.kind)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel(q, k, v, window, placed)

    leaves = [part.to(device.kind, copy=True).requires_grad_() for part in (q, k, v)]
    y = attend(*leaves)
    gradients = torch.autograd.grad(y, leaves, weight.to(device.kind))
    plain = [part.to(torch.float32, copy=True).requires_grad_() for part in (q, k, v)]
    expected = plain_attention(*plain, window=window, documents=documents)
    pairs = zip(gradients, torch.autograd.grad(expected, plain, weight.float()), strict=True)

    is_future = torch.arange(shape[2])[:, None] >= FUTURE_STARTS
    other_k, other_v = torch.where(is_future, new_k, k), torch.where(is_future, new_v, v)
    with torch.no_grad():
        same, other = (
            attend(*(part.to(device.kind) for part in parts)) for parts in ((q, k, v), (q, other_k, other_v))
        )
    return {
        "values": max(relative_difference(y, expected), relative_difference(same, expected)),
        "gradient": max(relative_difference(*pair) for pair in pairs),
        "leak": relative_difference(other[:, :, :FUTURE_STARTS], same[:, :, :FUTURE_STARTS]),
    }


def plain_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Tensor | None) -> Tensor:
    """Attend with the whole matrix of weights; q, k, v and result (B, H, T, P), documents (B, T)."""
    position = torch.arange(q.shape[2])
    distance = position[:, None] - position
    visible = (distance >= 0) & (distance < window)
    if documents is not None:
        visible = (visible & (documents[:, :, None] == documents[:, None]))[:, None]
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ v


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference relative to the largest expected value; infinite for nan."""
    found, expected = found.detach().float().cpu(), expected.detach().float().cpu()
    difference = float((found - expected).abs().max() / expected.abs().max())
    return math.inf if math.isnan(difference) else difference


def compare_batch_shapes(name: str, spec: ModelSpec, device: Device) -> Iterator[Comparison]:
    """Compare the gradients of batches of several shapes, one after the other, with means over small parts."""
    model, reference = (build_model(spec, seed=0).to(kind) for kind in (device.kind, "cpu"))
    for batch, length in BATCH_SHAPES:
        tokens = torch.randint(spec.vocab_size, (batch, length + 1), generator=torch.Generator().manual_seed(batch))

        def action(tokens: Tensor = tokens) -> dict[str, float]:
            found = _gradient(model, [tokens], Device(device.kind, "fp32", device.threads))
            expected = _gradient(
                reference, list(tokens.split(max(1, len(tokens) // PARTS))), Device("cpu", "fp32", device.threads)
            )
            return {"gradient": float((found - expected).norm() / expected.norm())}

        shape = f"{batch} x {length} tokens"
        yield check_differences(f"{name} {shape}", f"{device.kind}, in parts", "fp32", action)


def _gradient(model: LanguageModel, parts: list[Tensor], device: Device) -> Tensor:
    """Return the mean gradient over parts of a batch."""
    model.zero_grad(set_to_none=True)
    n_rows = sum(map(len, parts))
    for rows in parts:
        (compute_loss(model, rows.to(device.kind), device) * (len(rows) / n_rows)).backward()
    return gradient_vector(model)


def compare_vocabularies(spec: ModelSpec, device: Device) -> Iterator[Comparison]:
    """Compare loss and gradients at the vocabularies of Llama and GPT-2 with those from all logits at once, in fp32."""
    for size in VOCABULARIES:
        for precision in ("fp32", "bf16"):
            action = partial(vocabulary_differences, replace(spec, vocab_size=size), precision, device)
            yield check_differences(f"vocabulary {size:,}", f"{device.kind} {precision}, all logits", precision, action)


def vocabulary_differences(spec: ModelSpec, precision: str, device: Device) -> dict[str, float]:
    """Return the relative differences of the loss, and of the gradient as one vector."""
    spec = replace(spec, blocks=("mlp",))
    model, reference = (build_model(spec, seed=0).to(kind) for kind in (device.kind, "cpu"))
    tokens = torch.randint(spec.vocab_size, (2, 129), generator=torch.Generator().manual_seed(0))
    expected = F.cross_entropy(reference.logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    expected.backward()
    loss = compute_loss(model, tokens.to(device.kind), Device(device.kind, precision, device.threads))
    loss.backward()
    found, wanted = float(loss.detach()), float(expected.detach())
    gradient, expected_gradient = gradient_vector(model), gradient_vector(reference)
    return {
        "loss": abs(found - wanted) / wanted,
        "gradient": float((gradient - expected_gradient).norm() / expected_gradient.norm()),
    }


def gradient_vector(model: LanguageModel) -> Tensor:
    """Return the gradients of all parameters as one vector on the CPU."""
    return torch.cat([parameter.grad.flatten().cpu() for parameter in model.parameters() if parameter.grad is not None])


def compare_overfitting(spec: ModelSpec, device: Device) -> Comparison:
    """Train on one batch: the loss falls to a part of the first one, on an accelerator as on the CPU."""

    def action() -> dict[str, float]:
        losses = overfit(spec, Device(device.kind, "fp32", device.threads))
        found = {"last/first": losses[-1] / losses[0]}
        if device.kind != "cpu":
            expected = overfit(spec, Device("cpu", "fp32", device.threads))
            found["curve"] = max(abs(a - b) for a, b in zip(losses, expected, strict=True)) / expected[0]
        return found

    with_cpu = "" if device.kind == "cpu" else f"{device.kind}, cpu: "
    return check_differences("one batch", f"{with_cpu}{OVERFIT_STEPS} steps, none", "overfit", action)


def overfit(spec: ModelSpec, device: Device) -> list[float]:
    """Return the losses of training steps on one batch of random tokens."""
    state = build_train_state(spec, OptimizerConfig("adamw", learning_rate=OVERFIT_RATE), device)
    tokens = torch.randint(spec.vocab_size, (2, 65), generator=torch.Generator().manual_seed(0)).to(device.kind)
    step = partial(train_step, state, tokens, micro_batch_size=2, grad_clip=1.0, device=device)
    return torch.stack([step().loss for _ in range(OVERFIT_STEPS)]).tolist()


def compare_memory_growth(spec: ModelSpec, device: Device) -> Comparison:
    """Compare the memory that the allocator holds after many training steps with that after a few."""

    def action() -> dict[str, float]:
        state = build_train_state(spec, OptimizerConfig("adamw", learning_rate=1e-4), device)
        held = []
        for step in range(1, GROWTH_STEPS + 1):
            random_step(state, device, seq_len=64, micro_batch_size=2, accumulate=True, document_masking=True)
            if step in (WARM_STEPS, GROWTH_STEPS):
                device.synchronize()
                held.append(device.held_bytes())
        return {"growth": max(0.0, held[1] / held[0] - 1)}

    return check_differences("memory", f"{GROWTH_STEPS} steps, {WARM_STEPS} steps", "growth", action)


def compare_compiled(name: str, spec: ModelSpec, device: Device) -> Comparison:
    """Compare loss and gradient of compiled blocks with those of the same blocks in eager mode."""

    def action() -> dict[str, float]:
        plain = Device(device.kind, "fp32", device.threads)
        model = build_model(spec, seed=0).to(device.kind)
        tokens = torch.randint(spec.vocab_size, (2, 65), generator=torch.Generator().manual_seed(0))
        expected = _gradient(model, [tokens], plain)
        model.zero_grad(set_to_none=True)
        compute_loss(model, tokens.to(device.kind), plain, compile_blocks(model)).backward()
        return {"gradient": float((gradient_vector(model) - expected).norm() / expected.norm())}

    return check_differences(name, "compiled, eager", "fp32", action)
