"""Fixtures: random text, a small training state, and one step with optional faults."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from src.config.schema import OptimizerConfig
from src.data.loader import TrainLoader
from src.model.language_model import LanguageModel
from src.training.optimizers import build_optimizer
from src.training.train_step import StepOutput, TrainState, train_step
from tests.contract.small import CPU, VOCAB_SIZE, small_model

StateBuilder = Callable[..., TrainState]


def step(state: TrainState, batch: Tensor, micro: int = 8, clip: float = 1.0, eot_id: int | None = None) -> StepOutput:
    """Take one optimizer step."""
    return train_step(state, batch, micro_batch_size=micro, grad_clip=clip, device=CPU, eot_id=eot_id)


def random_rows(seed: int) -> Tensor:
    """Return 12 rows of 17 random tokens."""
    return torch.randint(VOCAB_SIZE, (12, 17), generator=torch.Generator().manual_seed(seed))


def poison(state: TrainState, factors: Iterable[float]) -> None:
    """Make each forward pass multiply its hidden states, and so every gradient, by the next factor."""
    each = iter(factors)

    def forward(tokens: Tensor, documents: Tensor | None = None) -> Any:
        output = state.model(tokens, documents=documents)
        return output._replace(hidden=output.hidden * next(each))

    state.forward = forward


@pytest.fixture
def loader() -> TrainLoader:
    """Windows of 16 over a random stream with a few frequent tokens, so that there is something to learn."""
    generator = np.random.default_rng(0)
    return TrainLoader((generator.integers(0, VOCAB_SIZE, 4000) // 8).astype(np.uint16), 16, seed=0)


@pytest.fixture
def build_state() -> StateBuilder:
    def build(architecture: str = "dense", model: LanguageModel | None = None, seed: int = 0) -> TrainState:
        model = model or small_model(architecture, seed=seed)
        optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=1e-3))
        return TrainState.begin("language", model, optimizer, CPU)

    return build
