"""A device, text without sense, and all that training changes, at the smallest size."""

from collections.abc import Callable

import numpy as np
import pytest

from src.config import OptimizerConfig
from src.data.loader import TrainLoader
from src.model.language_model import LanguageModel
from src.runtime.device import Device
from src.training.loop import TrainState
from src.training.optimizer import build_optimizer
from tests.contract.small import VOCAB_SIZE, small_model

StateBuilder = Callable[..., TrainState]


@pytest.fixture
def device() -> Device:
    return Device("cpu", "fp32", 1)


@pytest.fixture
def loader() -> TrainLoader:
    """Windows of 16 over a stream with a few words that come often, so that there is something to learn."""
    draw = np.random.default_rng(0)
    return TrainLoader((draw.integers(0, VOCAB_SIZE, 4000) // 8).astype(np.uint16), 16, seed=0)


@pytest.fixture
def build_state(device: Device) -> StateBuilder:
    def build(architecture: str = "dense", model: LanguageModel | None = None, seed: int = 0) -> TrainState:
        model = model or small_model(architecture, seed=seed)
        optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=1e-3))
        return TrainState.begin("language", model, optimizer, device)

    return build
