"""The doctor finds no error on a correct machine, and detects every planted fault."""

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.attention.module import KeyValueCache
from src.model.blocks.base import BlockOutput
from src.model.blocks.mlp.module import MLP
from src.profiling import doctor
from src.profiling.doctor import (
    Comparison,
    ModelResults,
    Option,
    check_differences,
    compare,
    compare_long_reduction,
    compute_differences,
)
from src.runtime.device import MAX_REDUCTION, Device
from tests.contract.small import ARCHITECTURES, CPU, random_tokens, small_spec
from tests.reference import fla

TOKENS = random_tokens(2, 65)


class FakeAccelerator(str):
    """A device name that torch treats as the CPU, and our code as an accelerator."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True


ACCELERATOR = Device(FakeAccelerator("cpu"), "fp32", 1)


def compared(architecture: str, device: Device) -> dict[str, Comparison]:
    return {one.ways: one for one in compare(architecture, small_spec(architecture), TOKENS, device)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_correct_machine_passes(architecture: str) -> None:
    found = compared(architecture, CPU)
    assert [one for one in found.values() if not one.ok] == []
    assert {ways: set(one.differences) for ways, one in found.items()} == {
        "one by one, one pass": {"decoding"},
        "bf16, fp32": {"loss", "gradient"},
        "gradient, slope": {"slope"},
        "other future, same": {"fp32", "bf16"},
    }
    # Two different computations are compared, not one with itself; of the future nothing may be visible.
    assert all(value for ways, one in found.items() if "future" not in ways for value in one.differences.values())


def test_accelerator_is_compared_with_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"loss", "gradient", "worst_gradient", "decoding"}
    assert (correct := compared("dense", ACCELERATOR)["cpu, cpu"]).ok and set(correct.differences) == keys
    plain = doctor.run_model

    def wrong(spec: Any, tokens: Tensor, device: Device, *, decode: bool = False) -> ModelResults:
        found = plain(spec, tokens, device, decode=decode)
        if isinstance(device.kind, FakeAccelerator):  # in the smallest gradient, which hardly affects the whole
            smallest = min(found.gradients, key=lambda gradient: float(gradient.norm()))
            smallest *= 1.1
        return found

    monkeypatch.setattr(doctor, "run_model", wrong)
    broken = compared("dense", ACCELERATOR)["cpu, cpu"]
    assert not broken.ok
    assert (broken.differences["worst_gradient"] or 0) > 0.02 and (broken.differences["gradient"] or 0) < 5e-3


class NvidiaDevice(Device):
    """A CPU that is said to be an NVIDIA GPU."""

    is_nvidia_gpu = True  # pyright: ignore[reportAssignmentType]


@pytest.mark.slow
def test_recurrences_of_fla_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    fla.install(monkeypatch)
    device, ways = NvidiaDevice("cpu", "fp32", 1), "cpu fla, cpu"
    correct = compared("mamba", device)[ways]
    assert correct.ok and set(correct.differences) == {"loss", "gradient", "worst_gradient", "decoding"}

    def with_other_heads(*args: Any, **settings: Any) -> tuple[Tensor, Tensor]:
        y, state = fla.chunk_simple_gla(*args, **settings)
        return y.flip(2), state

    monkeypatch.setattr(sys.modules["fla.ops.simple_gla"], "chunk_simple_gla", with_other_heads)
    assert not compared("mamba", device)[ways].ok


def test_slope_detects_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = MLP.forward

    def forward(self: MLP, x: Tensor, cache: Any = None, documents: Any = None) -> BlockOutput:
        y = plain(self, x, cache).y
        return BlockOutput(y + (y - y.detach()))  # the same values, twice the gradient

    monkeypatch.setattr(MLP, "forward", forward)
    assert [ways for ways, one in compared("dense", CPU).items() if not one.ok] == ["gradient, slope"]


def test_wrong_decoding_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KeyValueCache, "stored", lambda self: (self.keys[:, :, :1], self.values[:, :, :1]))
    assert [ways for ways, one in compared("dense", CPU).items() if not one.ok] == ["one by one, one pass"]


def test_visible_future_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As pytorch#195910 reports of MPS: only without gradients, and only in half precision."""

    def leaky(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        leaks = is_causal and q.dtype != torch.float32 and not torch.is_grad_enabled()
        position = torch.arange(q.shape[2])
        mask = position[None] <= (position | 3)[:, None] if leaks else attn_mask
        return plain(q, k, v, attn_mask=mask, is_causal=is_causal and not leaks)

    plain = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", leaky)
    found = compared("dense", CPU)
    assert [ways for ways, one in found.items() if not one.ok] == ["other future, same"]
    differences = found["other future, same"].differences
    assert (differences["bf16"] or 0) > 0.1 and differences["fp32"] == 0


def test_wrong_update_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec("moe")
    assert [(one.name, one.ok) for one in doctor.compare_optimizers(spec, TOKENS, ACCELERATOR)] == [
        ("optimizer adamw", True),
        ("optimizer muon", True),
    ]
    plain = doctor.measure_update

    def wrong(spec: ModelSpec, name: str, gradients: list[Tensor], kind: str) -> Tensor:
        signs = [-g for g in gradients] if isinstance(kind, FakeAccelerator) else gradients
        return plain(spec, name, signs, kind)

    monkeypatch.setattr(doctor, "measure_update", wrong)
    assert [one.ok for one in doctor.compare_optimizers(spec, TOKENS, ACCELERATOR)] == [False, False]


def test_wrong_long_reduction_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare_long_reduction(CPU).ok
    plain = F.linear

    def truncated(x: Tensor, weight: Tensor) -> Tensor:
        rest = plain(x[MAX_REDUCTION:], weight.detach())
        return torch.cat((plain(x[:MAX_REDUCTION], weight), rest))

    monkeypatch.setattr(F, "linear", truncated)
    found = compare_long_reduction(CPU)
    assert not found.ok and found.error == ""


def test_differences_are_relative() -> None:
    one = ModelResults(2.0, [torch.tensor([3.0, 0.0]), torch.tensor([4.0])], torch.tensor([[1.0, -4.0]]))
    other = ModelResults(2.5, [torch.tensor([3.0, 1.0]), torch.tensor([4.0])], torch.tensor([[2.0, -4.0]]))
    found = compute_differences(other, one)
    assert found == {
        "loss": 0.25,
        "gradient": pytest.approx(1 / 5),
        "worst_gradient": pytest.approx(1 / 3, rel=1e-3),
        "decoding": 0.25,
    }
    assert set(compute_differences(one, one).values()) == {0.0}


def test_check_differences() -> None:
    def missing() -> dict[str, float]:
        raise NotImplementedError("no kernel\nfor this")

    assert check_differences("a", "b", "slope", lambda: {"slope": 0.01}) == Comparison("a", "b", {"slope": 0.01}, True)
    assert not check_differences("a", "b", "slope", lambda: {"slope": 0.5}).ok
    assert check_differences("a", "b", "slope", lambda: {"slope": math.nan}) == Comparison(
        "a", "b", {"slope": None}, False
    )
    assert check_differences("a", "b", "fp32", missing) == Comparison("a", "b", {}, False, "no kernel for this")


def test_matmul_speed_is_measured_in_each_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    def mm(one: Tensor, other: Tensor) -> Tensor:
        if one.dtype == torch.float16:
            raise RuntimeError("not implemented for 'Half'")
        return one

    monkeypatch.setattr(torch, "mm", mm)
    found = doctor.matmul_speeds(CPU, seconds=0)
    assert set(found) == {"fp32", "bf16", "fp16"} and found["fp16"] is None
    assert all(found[name] for name in ("fp32", "bf16"))


def test_options_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(model: object, **options: object) -> None:
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", no_compiler)
    bf16, fused, compiled = doctor.measure_options(small_spec("dense"), CPU, compiled=True, seconds=0)
    assert (bf16.name, fused.name) == ("runtime.precision=bf16", "fused AdamW (always on)")
    assert bf16.speedup and fused.speedup and min(bf16.speedup, fused.speedup) > 0
    assert compiled == Option("runtime.compile=true", None, "no compiler here")
    assert [Option("x", speedup).is_faster for speedup in (None, 0.5, 1.04, 1.06)] == [False, False, False, True]
