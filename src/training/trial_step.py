"""A training step on random tokens, to measure memory and speed and to find the micro batch size."""

import torch

from src.config.schema import ModelSpec, OptimizerConfig
from src.model.build import build_model
from src.runtime.device import Device
from src.training.compilation import compile_blocks
from src.training.optimizers import build_optimizer, prepare_weights
from src.training.train_step import TrainState, train_step


def build_train_state(
    spec: ModelSpec,
    optimizer: OptimizerConfig,
    device: Device,
    activation_checkpointing: bool = False,
    is_compiled: bool = False,
    memory: str = "full",
) -> TrainState:
    """Build the model and optimizer of a run. memory: `training.memory`."""
    model = build_model(spec, seed=0).train()
    prepare_weights(model, memory)
    model.to(device.kind)
    model.activation_checkpointing = activation_checkpointing
    forward = compile_blocks(model) if is_compiled else None
    return TrainState.begin("measured", model, build_optimizer(model, optimizer, memory), device, forward)


def random_step(
    state: TrainState,
    device: Device,
    *,
    seq_len: int,
    micro_batch_size: int,
    accumulate: bool,
    document_masking: bool,
    dropout: float = 0.0,
) -> None:
    """Train one step on random tokens: one micro batch, or two whose gradients are summed."""
    rows = micro_batch_size * (1 + accumulate)
    train_step(
        state,
        torch.randint(state.model.spec.vocab_size, (rows, seq_len + 1), device=device.kind),
        micro_batch_size=micro_batch_size,
        grad_clip=1.0,
        device=device,
        eot_id=0 if document_masking else None,
        dropout=dropout,
    )
