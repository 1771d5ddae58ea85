"""Learning rate schedules: warm-up, peak and decay."""

import math

import pytest

from src.config.schema import ScheduleConfig
from src.training.schedule import learning_rate_factor, warmup_steps


def factors_of(total: int, name: str = "cosine", **changes: float | int | None) -> list[float]:
    config = ScheduleConfig(name=name, **changes)  # pyright: ignore[reportArgumentType]
    return [learning_rate_factor(step, total, config) for step in range(total)]


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_warmup_is_linear_to_the_peak(name: str) -> None:
    factors = factors_of(100, name, warmup_steps=10)
    assert factors[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert factors[10] == pytest.approx(1.0)
    assert max(factors) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("total", [3, 20, 100, 1001])
def test_schedule_ends_with_the_stage(name: str, total: int) -> None:
    factors = factors_of(total, name, min_ratio=0.25)
    assert factors[-1] == pytest.approx(0.25)
    assert all(factor > 0.25 for factor in factors[warmup_steps(total, ScheduleConfig(name=name)) : -1])
    assert all(0 < factor <= 1 for factor in factors)


def test_update_every_is_torchs_cosine_stepped_once_an_epoch() -> None:
    import torch

    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0.0)
    expected: list[float] = []
    for _ in range(8):
        expected += [optimizer.param_groups[0]["lr"]] * 5
        optimizer.step()
        schedule.step()
    assert factors_of(40, "cosine", warmup_steps=0, min_ratio=0.0, update_every=5) == pytest.approx(expected)
    held = factors_of(45, "cosine", warmup_steps=5, min_ratio=0.0, update_every=5)
    assert held[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and held[5:] == pytest.approx(expected)


def test_cosine_is_symmetric() -> None:
    factors = factors_of(101, "cosine", warmup_steps=0, min_ratio=0.1)
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.55)
    assert factors[25] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert factors == sorted(factors, reverse=True)


def test_linear_decays_from_the_warmup_to_the_end() -> None:
    factors = factors_of(110, "linear", warmup_steps=9, min_ratio=0.1)
    assert factors[9:] == pytest.approx([1 - 0.9 * i / 100 for i in range(101)])


def test_wsd_is_constant_and_then_linear() -> None:
    factors = factors_of(101, "wsd", warmup_steps=0, min_ratio=0.0, decay_fraction=0.2)
    assert factors[:81] == pytest.approx([1.0] * 81)
    assert factors[80:] == pytest.approx([1 - i / 20 for i in range(21)], abs=1e-9)


def test_default_warmup_is_a_twentieth() -> None:
    steps = (2, 30, 195, 300, 1000, 2000, 4000)
    found = [warmup_steps(total, ScheduleConfig(name="cosine")) for total in steps]
    assert found == [0, 10, 65, 100, 100, 100, 200]
    assert warmup_steps(400, ScheduleConfig(name="cosine", warmup_steps=0)) == 0
    assert warmup_steps(400, ScheduleConfig(name="cosine", warmup_steps=7)) == 7


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_single_step_is_at_the_peak(name: str) -> None:
    assert factors_of(1, name) == [1.0]
