"""AdamW with 8-bit moments and bf16 weights: the same update as torch's, what is rounded, and what a step changes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from src.config.schema import OptimizerConfig
from src.model.build import build_model
from src.training import lean_adamw as module
from src.training.lean_adamw import BLOCK, CODES, LeanAdamW, decode, encode, round_stochastically
from src.training.optimizers import build_optimizer, prepare_weights
from tests.contract.small import ARCHITECTURES, small_spec

SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8}


def gradients(steps: int, size: int = 300) -> list[Tensor]:
    """Draw gradients whose columns differ by a factor of 1000, as those of weights do."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, size, generator=generator) * torch.logspace(-3, 0, size) for _ in range(steps)]


def trained(optimizer_of: Any, dtype: torch.dtype = torch.float32, steps: int = 20) -> tuple[nn.Parameter, Any]:
    """Update a matrix of ones, which makes its rounding in bf16 coarse."""
    parameter = nn.Parameter(torch.ones(300, 300, dtype=dtype))
    optimizer = optimizer_of([{"params": [parameter], "weight_decay": 0.1}])
    for step, gradient in enumerate(gradients(steps)):
        parameter.grad = gradient.to(dtype)
        optimizer.rounding_key = ("test", step)
        optimizer.step()
    return parameter, optimizer


def torch_adamw(groups: list[dict[str, Any]]) -> torch.optim.AdamW:
    return torch.optim.AdamW(groups, **SETTINGS)


def lean_adamw(groups: list[dict[str, Any]], has_8bit_moments: bool = True) -> LeanAdamW:
    return LeanAdamW(groups, **SETTINGS, has_8bit_moments=has_8bit_moments)


def test_with_fp32_moments_it_is_adamw() -> None:
    expected, _ = trained(torch_adamw)
    found, _ = trained(lambda groups: lean_adamw(groups, has_8bit_moments=False))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_moments_and_weights_stay_near_those_of_adamw() -> None:
    expected, exact = trained(torch_adamw)
    found, lean = trained(lean_adamw)
    state, reference = lean.state[found], exact.state[expected]
    for name, other, bound in (("m", "exp_avg", 0.04), ("v", "exp_avg_sq", 0.04)):
        value = decode(state[name], state[f"{name}_scale"], CODES[name])
        error = (value - reference[other].view(-1)).norm() / reference[other].norm()
        assert 0 < error < bound, name
    moved, error = (expected - 1).norm(), (found - expected).norm()
    assert 0 < error < 0.15 * moved


def test_bf16_weights_move_as_far_as_fp32_ones() -> None:
    """Rounded to the nearest, they would stay: an update of 1e-4 is less than half a step of bf16 at 1, 2^-9."""

    def run(dtype: torch.dtype) -> Tensor:
        parameter = nn.Parameter(torch.ones(200, 200, dtype=dtype))
        optimizer = LeanAdamW([{"params": [parameter], "weight_decay": 0.0}], lr=1e-4, betas=(0.9, 0.95), eps=1e-8)
        for step in range(50):
            parameter.grad = torch.ones_like(parameter)
            optimizer.rounding_key = (step,)
            optimizer.step()
        return parameter.detach().float() - 1

    plain, rounded = run(torch.float32).mean(), run(torch.bfloat16).mean()
    assert plain == pytest.approx(-50 * 1e-4, rel=0.02)
    assert rounded == pytest.approx(float(plain), rel=0.05)


def test_rounding_is_exact_on_average_and_keeps_what_bf16_can_hold() -> None:
    noise = torch.randint(
        -(1 << 31), 1 << 31, (1 << 16,), dtype=torch.int32, generator=torch.Generator().manual_seed(1)
    )
    for value in (1.001, -0.037, 3.3e-5):
        rounded = round_stochastically(torch.full((1 << 16,), value), noise).float()
        assert len(rounded.unique()) == 2
        assert float(rounded.double().mean()) == pytest.approx(value, rel=1e-4)
    kept = torch.tensor([1.0, -0.5, 0.0, 1.0078125])
    assert torch.equal(round_stochastically(kept, noise[:4]).float(), kept)


@pytest.mark.parametrize("size", [1, BLOCK, 3 * BLOCK + 7])
@pytest.mark.parametrize("name", ["m", "v"])
def test_codes_hold_a_value_within_their_step(name: str, size: int) -> None:
    code, generator = CODES[name], torch.Generator().manual_seed(2)
    values = torch.randn(size, generator=generator) * torch.rand(size, generator=generator) ** 4
    values = values.square() if name == "v" else values
    noise = torch.randint(-(1 << 31), 1 << 31, (-(-size // BLOCK) * BLOCK,), dtype=torch.int32, generator=generator)
    codes, scale = encode(values, code, noise)
    assert codes.dtype == code.dtype and len(codes) == size and len(scale) == -(-size // BLOCK)
    found = decode(codes, scale, code)
    share = lambda x: (x.abs() / scale.repeat_interleave(BLOCK)[:size]) ** (1 / code.power)  # noqa: E731
    assert (share(found) - share(values)).abs().max() < 1.01 / code.levels
    assert torch.equal(found.sign(), values.sign()) or name == "m", "a second moment is never 0"


@pytest.mark.parametrize("second", [0.95, 0.999])
def test_moments_decay_at_their_rate(second: float) -> None:
    """Rounded to the nearest code, a small moment would stay; with too few random bits, it would decay too fast."""
    parameter = nn.Parameter(torch.zeros(100, 2560))
    optimizer = LeanAdamW([{"params": [parameter], "weight_decay": 0.0}], lr=1e-3, betas=(0.9, second), eps=1e-8)
    steps = 40
    parameter.grad = torch.logspace(-2, 0, 256).repeat(100, 10)  # every block has values down to a hundredth
    for step in range(steps + 1):
        optimizer.rounding_key = (step,)
        optimizer.step()
        if step == 0:
            first = {name: decode_moment(optimizer, parameter, name) for name in CODES}
            parameter.grad = parameter.grad * (torch.arange(256) == 255).repeat(100, 10)  # the largest keeps the scale
    for name, rate in (("m", 0.9), ("v", second)):
        found = decode_moment(optimizer, parameter, name) / first[name]
        middle = found.view(-1, 256)[:, 100:250].mean(dim=0)
        assert float(middle.mean()) == pytest.approx(rate**steps, rel=0.2 if name == "v" else 0.6, abs=1e-4), name


def decode_moment(optimizer: LeanAdamW, parameter: nn.Parameter, name: str) -> Tensor:
    state = optimizer.state[parameter]
    return decode(state[name], state[f"{name}_scale"], CODES[name])


def test_chunks_do_not_change_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """With moments in fp32, which need no random numbers; 8-bit ones stay as near to them as in one chunk."""
    whole, _ = trained(lambda groups: lean_adamw(groups, has_8bit_moments=False))
    monkeypatch.setattr(module, "CPU_CHUNK", 4 * BLOCK)
    parts, _ = trained(lambda groups: lean_adamw(groups, has_8bit_moments=False))
    coded, _ = trained(lean_adamw)
    assert torch.equal(parts, whole)
    assert 0 < (coded - whole).norm() < 0.15 * (whole - 1).norm()


def test_a_skipped_first_step_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(100, 100))
    optimizer = lean_adamw([{"params": [parameter], "weight_decay": 0.1}])
    optimizer.found_inf = torch.ones(())
    parameter.grad = torch.full_like(parameter, torch.inf)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(100, 100))
    assert not any(value.any() for value in optimizer.state[parameter].values())


def test_a_skipped_step_changes_nothing() -> None:
    parameter, optimizer = trained(lean_adamw, torch.bfloat16, steps=2)
    before = {name: value.clone() for name, value in optimizer.state[parameter].items()}, parameter.detach().clone()
    parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(value, before[0][name]) for name, value in optimizer.state[parameter].items())
    assert torch.equal(parameter, before[1])
    optimizer.found_inf = torch.zeros(())
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert not torch.equal(parameter, before[1])


def test_a_loaded_state_continues_bit_for_bit() -> None:
    whole, _ = trained(lean_adamw, torch.bfloat16, steps=6)
    half, optimizer = trained(lean_adamw, torch.bfloat16, steps=3)
    again = nn.Parameter(half.detach().clone())
    other = lean_adamw([{"params": [again], "weight_decay": 0.1}])
    other.load_state_dict(optimizer.state_dict())
    assert {name: value.dtype for name, value in other.state[again].items()} == {
        name: value.dtype for name, value in optimizer.state[half].items()
    }
    for step, gradient in enumerate(gradients(6)[3:], start=3):
        again.grad = gradient.to(torch.bfloat16)
        other.rounding_key = ("test", step)
        other.step()
    assert torch.equal(again, whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_becomes_bf16(architecture: str) -> None:
    """All matrices of the blocks, except those of routers, convolutions and decays; vectors, embedding and head not."""
    model = build_model(small_spec(architecture), seed=0)
    prepare_weights(model, "lean")
    kept = ("conv_weight", "router.weight", "A_log")
    for name, parameter in model.named_parameters():
        is_matrix = name.startswith("blocks.") and parameter.ndim > 1 and not name.endswith(kept)
        assert parameter.dtype == (torch.bfloat16 if is_matrix else torch.float32), name


def test_bytes_of_the_state() -> None:
    model = build_model(small_spec("dense"), seed=0)
    prepare_weights(model, "lean")
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=1e-3), "lean")
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for parameter in model.parameters():
        if parameter.numel() >= 4096:
            stored = sum(value.nbytes for name, value in optimizer.state[parameter].items() if name != "step")
            assert stored <= 2 * (parameter.numel() + 4 * (parameter.numel() / BLOCK + 1))
