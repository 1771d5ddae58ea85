"""Attention against its reference implementation, rotary positions against complex numbers, the cache against both."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.blocks.attention import module
from src.model.blocks.attention.module import Attention, KeyValueCache
from src.model.blocks.attention.rope import Rope, apply_rope
from src.model.blocks.sliding_attention.module import SlidingAttention, sliding_attention
from src.runtime.device import needs_causal_mask
from tests.contract.small import small_spec
from tests.reference.attention import complex_rope, masked_attention, reference_attention
from tests.reference.documents import packed_ids

SDPA = F.scaled_dot_product_attention


def heads(length: int, seed: int = 0, batch: int = 2) -> list[Tensor]:
    """Draw q, k and v (B, 3, T, 8)."""
    torch.manual_seed(seed)
    return [torch.randn(batch, 3, length, 8, requires_grad=True) for _ in range(3)]


def assert_agree(found: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Compare outputs, and the gradients of a random projection."""
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-5, atol=1e-5)
    projection = torch.randn_like(found)
    fast = torch.autograd.grad((found * projection).sum(), leaves)
    reference = torch.autograd.grad((expected * projection).sum(), leaves)
    for one, other in zip(fast, reference, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype), rtol=1e-4, atol=4e-5)


def leaky_sdpa(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Mask as pytorch#195910 reports of MPS: once for each group of four positions."""
    if is_causal:
        position = torch.arange(q.shape[2])
        attn_mask = position[None] <= (position | 3)[:, None]
    return SDPA(q, k, v, attn_mask=attn_mask)


@pytest.mark.parametrize("window", [16, 100])
def test_explicit_mask_replaces_a_leaking_flag(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", leaky_sdpa)
    q, k, v = heads(48)
    expected = masked_attention(q, k, v, window)
    assert not torch.allclose(sliding_attention(q, k, v, window), expected, atol=0.1)
    monkeypatch.setattr(module, "needs_causal_mask", lambda query: True)
    assert_agree(sliding_attention(q, k, v, window), expected, [q, k, v])


@pytest.mark.parametrize(
    ("kind", "dtype", "needed"),
    [
        ("mps", torch.bfloat16, True),
        ("mps", torch.float16, True),
        ("mps", torch.float32, False),
        ("cuda", torch.bfloat16, False),
        ("cpu", torch.bfloat16, False),
    ],
)
def test_half_precision_on_mps_needs_a_mask(kind: str, dtype: torch.dtype, needed: bool) -> None:
    query: Any = SimpleNamespace(device=torch.device(kind), dtype=dtype)
    assert needs_causal_mask(query) is needed


@pytest.mark.parametrize("window", [1, 2, 5, 16, 100])
@pytest.mark.parametrize("length", [1, 2, 5, 6, 15, 16, 17, 33, 48])
def test_blockwise_window_equals_masked_attention(length: int, window: int) -> None:
    q, k, v = heads(length)
    assert_agree(sliding_attention(q, k, v, window), masked_attention(q, k, v, window), [q, k, v])


def test_window_as_long_as_the_text_equals_full_attention() -> None:
    q, k, v = heads(20)
    torch.testing.assert_close(masked_attention(q, k, v, 20), masked_attention(q, k, v))
    torch.testing.assert_close(sliding_attention(q, k, v, 20), masked_attention(q, k, v), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [None, 1, 5, 16, 100])
@pytest.mark.parametrize("lengths", [(1, 7, 30, 10), (16, 32), (5,), (600, 500)])
def test_documents_do_not_attend_to_each_other(lengths: tuple[int, ...], window: int | None) -> None:
    """Short and long documents, some after more of another than one kernel block."""
    q, k, v = heads(sum(lengths), batch=1)
    found = sliding_attention(q, k, v, window or 2000, packed_ids(lengths, 1))
    cuts = torch.arange(sum(lengths)).split(list(lengths))
    expected = [masked_attention(q[:, :, cut], k[:, :, cut], v[:, :, cut], window) for cut in cuts]
    assert_agree(found, torch.cat(expected, dim=2), [q, k, v])


@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_rope_equals_complex_product(offset: int) -> None:
    x = heads(12)[0]
    found, expected = apply_rope(x, offset), complex_rope(x, offset)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=3e-4 if offset else 1e-5)


@pytest.mark.parametrize(
    "rope",
    [Rope(700.0, "linear", 4.0), Rope(500.0, "llama3", 8.0, 1.0, 4.0, 64), Rope(10.0, "llama3", 3.0, 2.0, 9.0, 64)],
)
def test_scaled_rope_equals_the_reference(rope: Rope) -> None:
    x = torch.randn(2, 3, 90, 32)
    expected = complex_rope(x, 0, rope.theta, rope[1:])
    torch.testing.assert_close(apply_rope(x, 0, rope).double(), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(expected, complex_rope(x, 0, rope.theta), atol=0.1)


def test_rope_of_a_position_does_not_depend_on_the_length() -> None:
    """The table of angles grows by powers of two."""
    x = heads(40)[0]
    one_by_one = [apply_rope(x[:, :, t : t + 1], t) for t in range(40)]
    assert torch.equal(torch.cat(one_by_one, dim=2), apply_rope(x, 0))


def test_rope_scores_depend_only_on_distance() -> None:
    q, k, _ = heads(12)
    near = apply_rope(q, 0) @ apply_rope(k, 0).transpose(-1, -2)
    far = apply_rope(q, 500) @ apply_rope(k, 500).transpose(-1, -2)
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [Attention, SlidingAttention])
@pytest.mark.parametrize("recipe", ["modern", "classic"])
@pytest.mark.parametrize("heads", [(None, None), (None, 2), (6, 1), (6, 3)])
@pytest.mark.parametrize("length", [1, 16, 40])
def test_block_equals_reference_implementation(
    kind: type[Attention], recipe: str, heads: tuple[int | None, int | None], length: int
) -> None:
    torch.manual_seed(0)
    spec = replace(small_spec("hybrid", recipe), query_heads=heads[0], kv_heads=heads[1])
    block = kind(spec)
    block.init_weights(1.0)
    with torch.no_grad():
        for parameter in (block.qkv.weight, block.out.weight):
            parameter.mul_(10)  # weights as large as after training, so that attention is not uniform
    x = torch.randn(2, length, 64)
    window = spec.window if kind is SlidingAttention else None
    weights = block.qkv.weight, block.out.weight
    expected = reference_attention(x, *weights, spec.n_heads, window, recipe == "modern", spec.n_kv_heads)
    assert_agree(block(x).y, expected, [block.qkv.weight, block.out.weight])


@pytest.mark.parametrize("prefill", [1, 3, 4, 5, 11])
def test_ring_buffer_keeps_the_last_positions(prefill: int) -> None:
    capacity, total = 4, 15
    k = torch.arange(float(total)).view(1, 1, total, 1).expand(2, 3, total, 8)
    cache = KeyValueCache(2, 3, capacity, 8, torch.zeros(()))
    cache.append(k[:, :, :prefill], -k[:, :, :prefill])
    for t in range(prefill, total + 1):
        keys, values = cache.stored()
        assert cache.offset == t
        assert sorted(keys[1, 2, :, 0].tolist()) == list(range(max(0, t - capacity), t))
        assert torch.equal(values, -keys)
        if t < total:
            cache.append(k[:, :, t : t + 1], -k[:, :, t : t + 1])


def test_angles_cached_in_inference_mode_are_not_used_in_training() -> None:
    x = torch.randn(1, 2, 5, 8)
    with torch.inference_mode():
        expected = apply_rope(x, 3).clone()
    x.requires_grad_()
    rotated = apply_rope(x, 3)
    rotated.sum().backward()
    assert torch.equal(rotated.detach(), expected) and x.grad is not None
