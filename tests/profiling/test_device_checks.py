"""Each check of a device passes on a correct machine and detects a planted fault."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.blocks.base import BlockOutput
from src.model.blocks.mlp.module import MLP
from src.profiling import device_checks
from src.profiling.device_checks import (
    compare_attention,
    compare_batch_shapes,
    compare_compiled,
    compare_memory_growth,
    compare_overfitting,
    compare_vocabularies,
    plain_attention,
)
from src.training.optimizer_base import AdamW
from tests.contract.small import CPU, small_spec
from tests.profiling.test_doctor import ACCELERATOR
from tests.reference.attention import masked_attention
from tests.reference.documents import packed_ids

SDPA = F.scaled_dot_product_attention


def test_correct_attention_passes() -> None:
    found = {one.ways: one for one in compare_attention(CPU)}
    assert list(found) == ["cpu fp32, matrix", "cpu bf16, matrix", "cpu fp16, matrix"]
    assert all(one.ok and one.differences["values"] and one.differences["leak"] == 0 for one in found.values())


@pytest.mark.parametrize("fault", ["group", "window", "gradient"])
def test_wrong_attention_is_detected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask per group of four positions, a window that is one position too short, and a gradient that is too small."""

    def wrong(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if fault == "group" and is_causal:
            position = torch.arange(q.shape[2])
            return SDPA(q, k, v, attn_mask=position[None] <= (position | 3)[:, None])
        if fault == "window" and attn_mask is not None and attn_mask.ndim == 2:
            shorter = attn_mask & (torch.arange(k.shape[2]) > torch.arange(q.shape[2])[:, None] + 1)
            return SDPA(q, k, v, attn_mask=shorter)
        y = SDPA(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return y.lerp(y.detach(), 0.1) if fault == "gradient" else y

    monkeypatch.setattr(F, "scaled_dot_product_attention", wrong)
    found = list(compare_attention(CPU))
    assert [one.ok for one in found] == [False] * 3
    assert all(bool(one.differences["leak"]) == (fault == "group") for one in found)


@pytest.mark.parametrize("window", [5, 100])
def test_plain_attention_equals_the_reference(window: int) -> None:
    q, k, v = (torch.randn(2, 3, 20, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    whole = plain_attention(q, k, v, window=window, documents=None)
    torch.testing.assert_close(whole, masked_attention(q, k, v, window))
    masked = plain_attention(q, k, v, window=window, documents=packed_ids((7, 13), 2))
    parts = [masked_attention(q[:, :, cut], k[:, :, cut], v[:, :, cut], window) for cut in (slice(7), slice(7, 20))]
    torch.testing.assert_close(masked, torch.cat(parts, dim=2))


@pytest.mark.slow
def test_gradients_of_several_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, plain = small_spec("dense"), MLP.forward
    correct = list(compare_batch_shapes("dense", spec, CPU))
    assert all(one.ok and one.differences["gradient"] for one in correct) and len(correct) == 4

    def forward(self: MLP, x: Tensor, cache: Any = None, documents: Any = None) -> BlockOutput:
        y = plain(self, x, cache).y
        return BlockOutput(y if y[..., 0].numel() < 32768 else torch.cat((y[:-10], y[-10:].detach())))

    monkeypatch.setattr(MLP, "forward", forward)
    found = {one.name: one.ok for one in compare_batch_shapes("dense", spec, CPU)}
    assert found == {"dense 2 x 64 tokens": True, "dense 260 x 128 tokens": False, "dense 3 x 48 tokens": True}


@pytest.mark.slow
def test_gradients_of_large_vocabularies(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, plain = small_spec("dense"), F.linear_cross_entropy
    correct = list(compare_vocabularies(spec, CPU))
    assert [one.name for one in correct] == ["vocabulary 32,000"] * 2 + ["vocabulary 50,257"] * 2
    assert all(one.ok and one.differences["gradient"] for one in correct)

    def truncated(hidden: Tensor, weight: Tensor, targets: Tensor, **options: Any) -> Tensor:
        known = 1 << 15  # later rows get no gradient
        return plain(hidden, torch.cat((weight[:known], weight[known:].detach())), targets, **options)

    monkeypatch.setattr(F, "linear_cross_entropy", truncated)
    assert [one.ok for one in compare_vocabularies(spec, CPU)] == [True, True, False, False]


@pytest.mark.slow
def test_one_batch_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec("dense")
    assert compare_overfitting(spec, CPU).ok
    same = compare_overfitting(spec, ACCELERATOR)
    assert same.ok and same.differences["curve"] == 0
    monkeypatch.setattr(AdamW, "step", lambda *_: None)
    found = compare_overfitting(spec, CPU)
    assert not found.ok and found.differences["last/first"] == pytest.approx(1)


@pytest.mark.slow
def test_growing_memory_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(small_spec("moe"), blocks=("attention", "moe"))
    plain, kept = device_checks.random_step, list[Tensor]()
    assert compare_memory_growth(spec, CPU).ok

    def leaking(*given: Any, **settings: Any) -> None:
        plain(*given, **settings)
        kept.append(torch.ones(4 << 20))  # 16 MB

    monkeypatch.setattr(device_checks, "random_step", leaking)
    assert not compare_memory_growth(spec, CPU).ok


def test_wrong_compiled_code_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec("dense")
    monkeypatch.setattr(device_checks, "compile_blocks", lambda model: model)
    assert compare_compiled("dense", spec, CPU).ok

    def wrong(model: Any) -> Any:
        return lambda *given, **settings: model(*given, **settings)._replace(hidden=model(*given).hidden * 1.1)

    monkeypatch.setattr(device_checks, "compile_blocks", wrong)
    assert not compare_compiled("dense", spec, CPU).ok


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["dense", "hybrid", "moe"])
def test_compiled_code_passes(architecture: str) -> None:
    found = compare_compiled(architecture, small_spec(architecture), CPU)
    assert found.ok and found.differences["gradient"]
