"""The budget of a sweep follows from the speed of the machine, and is chosen once."""

from dataclasses import replace
from pathlib import Path

import pytest

from src.cli.compose import compose_config, register_schema
from src.config.schema import TrainConfig
from src.sweep import time_budget
from src.sweep.time_budget import FEWEST_STEPS, SHARE_OF_TIME, Speed, choose_budget, load_or_choose, measure_speed

SPEED = Speed(start_s=5.0, seconds_per_token={"dense": 1e-4, "mamba": 2e-4})


@pytest.fixture
def configs() -> list[TrainConfig]:
    register_schema(TrainConfig, "train")
    jobs = [[f"architecture={name}", f"seed={seed}"] for name in ("dense", "mamba") for seed in (0, 1)]
    settings = ["size=pico", "stage=full", "runtime.device=cpu", "training.max_tokens=1_000_000_000"]
    return [compose_config(TrainConfig, "train", [*settings, *job]) for job in jobs]


def test_the_jobs_fit_into_the_time(configs: list[TrainConfig]) -> None:
    """At twice the time the budget more than doubles, as the start of the jobs is paid once."""
    chosen = {minutes: choose_budget(configs, minutes, SPEED) for minutes in (10.0, 20.0)}
    fixed: list[float] = []
    for minutes, budget in chosen.items():
        one_step = 2 * 2 * 1024 * (1e-4 + 2e-4)
        assert 60 * SHARE_OF_TIME * minutes - one_step < budget["predicted_s"] <= 60 * SHARE_OF_TIME * minutes
        assert budget["max_tokens"] % 1024 == 0
        trained = sum(2 * budget["max_tokens"] * SPEED.seconds_per_token[each.architecture.name] for each in configs)
        fixed.append(budget["predicted_s"] - trained)
    assert fixed[0] == pytest.approx(fixed[1], rel=1e-3)
    assert fixed[0] > len(configs) * SPEED.start_s
    assert chosen[20.0]["max_tokens"] > 2 * chosen[10.0]["max_tokens"]


def test_the_budget_has_limits(configs: list[TrainConfig]) -> None:
    capped = [replace(each, training=replace(each.training, max_tokens=100_000)) for each in configs]
    assert choose_budget(capped, 1000, SPEED)["max_tokens"] == 100_000 // 1024 * 1024
    assert choose_budget(configs, 0.1, SPEED)["max_tokens"] == FEWEST_STEPS * 1024


def test_a_chosen_budget_stays(configs: list[TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated command takes the same budget without measuring, although the machine is faster now."""
    file = tmp_path / "demos" / "x.json"
    monkeypatch.setattr(time_budget, "measure_speed", lambda configs: SPEED)
    assert load_or_choose(configs, 10, file, keep=False) == load_or_choose(configs, 10, file)
    monkeypatch.setattr(time_budget, "measure_speed", lambda configs: Speed(0.1, {"dense": 1e-6, "mamba": 1e-6}))
    assert load_or_choose(configs, 10, file) == choose_budget(configs, 10, SPEED)


@pytest.mark.slow
def test_speed_is_measured_in_a_subprocess(configs: list[TrainConfig]) -> None:
    speed = measure_speed(configs[::2])
    assert list(speed.seconds_per_token) == ["dense", "mamba"]
    assert all(0 < seconds < 1 for seconds in speed.seconds_per_token.values())
    assert speed.start_s > 0.1
