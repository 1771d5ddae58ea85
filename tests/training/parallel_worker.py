"""One process of `test_parallel.py`: `torchrun ... -m tests.training.parallel_worker write|read FOLDER ARCHITECTURE`.

write  trains a model in shards, and saves it as shards and, gathered, as whole files
read   loads both in shards, and compares every tensor; then trains one more step and prints its loss
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from src.config.schema import OptimizerConfig, UserError
from src.runtime.device import Device
from src.runtime.distributed import RankFailure, RankZeroFailed, open_process_group
from src.runtime.signals import Interrupted
from src.training.checkpoint import load_sharded_optimizer, load_state, load_weights, read_checkpoint, save_checkpoint
from src.training.muon import Muon
from src.training.optimizers import build_optimizer
from src.training.parallel import gather_tensors, parallelize, whole
from src.training.progress import Progress
from src.training.sharded_files import optimizer_tensors, weight_tensors
from src.training.train_step import TrainState, train_step
from tests.contract.small import CPU, small_model
from tests.training.conftest import random_rows

PROGRESS = Progress("language", 2)


def build_state(architecture: str, device: Device, seed: int = 0) -> TrainState:
    """Build a model, its parts in this process and an optimizer; Muon, whose state has two kinds."""
    model = small_model(architecture, seed=seed)
    parallelize(model, device)
    optimizer = build_optimizer(model, OptimizerConfig(name="muon", learning_rate=1e-2))
    return TrainState.begin("language", model, optimizer, device)


def train(state: TrainState, device: Device, steps: int) -> float:
    """Train on random rows, and return the last loss."""
    loss = torch.zeros(())
    for seed in range(steps):
        rows = random_rows(seed)[device.process_group.rank_slice(12)]
        loss = train_step(state, rows, micro_batch_size=2, grad_clip=1.0, device=device).loss
    return float(loss)


def all_tensors(state: TrainState, device: Device) -> dict[str, Tensor]:
    """Gather weights and optimizer state in rank 0."""
    tensors = weight_tensors(state.model) | optimizer_tensors(state.model, state.optimizer)
    return gather_tensors(tensors, device.process_group)


def write(folder: Path, architecture: str, device: Device) -> None:
    state = build_state(architecture, device)
    train(state, device, 2)
    shards = weight_tensors(state.model) | optimizer_tensors(state.model, state.optimizer)
    save = partial(
        save_checkpoint,
        model=state.model,
        progress=PROGRESS,
        tokenizer_sha256="",
        run="",
        process_group=device.process_group,
    )
    save(folder / "sharded", state=state.state_dict(has_optimizer=False), shards=shards)
    save(folder / "best")
    whole = all_tensors(state, device)
    device.process_group.on_rank_zero(lambda: torch.save(whole, folder / "whole.pt"))


def read(folder: Path, architecture: str, device: Device) -> None:
    state = build_state(architecture, device, seed=1)
    restore(folder / "sharded", state, device)
    whole = all_tensors(state, device)
    device.process_group.on_rank_zero(lambda: compare(whole, torch.load(folder / "whole.pt", weights_only=True)))
    other = build_state(architecture, device, seed=2)
    load_weights(read_checkpoint(folder / "best"), other.model, device.process_group)
    weights = gather_tensors(weight_tensors(other.model), device.process_group)
    device.process_group.on_rank_zero(lambda: compare(weights, {name: whole[name] for name in weights}))
    check_errors_are_shared(device)
    check_few_rows(device)
    loss = train(state, device, 1)
    device.process_group.on_rank_zero(lambda: print(f"loss {loss:.6f}"))


def restore(folder: Path, state: TrainState, device: Device) -> None:
    """Restore weights and optimizer from shards."""
    info = read_checkpoint(folder)
    load_weights(info, state.model, device.process_group)
    saved = load_state(info)
    saved["optimizer"] = load_sharded_optimizer(info, state.model, state.optimizer, device.process_group)
    state.restore(saved)


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [name for name, tensor in found.items() if not torch.equal(tensor, expected[name])]
    assert not different, different


def check_errors_are_shared(device: Device) -> None:
    """Check what each process raises if one of them fails: none waits for the others."""
    group = device.process_group

    def fail(error: Exception, item: int) -> int:
        if item == group.size - 1:  # the last process
            raise error
        return item

    is_last = group.rank == group.size - 1
    for error, elsewhere in ((ValueError("x"), RankFailure), (Interrupted(15), Interrupted)):
        expect(
            type(error) if is_last else elsewhere,
            lambda error=error: group.map(partial(fail, error), range(group.size)),
        )
    own = UserError if group.is_rank_zero else RankZeroFailed
    expect(own, lambda: group.map(partial(fail, UserError("y")), range(group.size)))
    expect(ZeroDivisionError if group.is_rank_zero else RankZeroFailed, lambda: group.on_rank_zero(lambda: 1 // 0))
    assert group.map(lambda item: item * group.size, range(5)) == [item * group.size for item in range(5)]


def check_few_rows(device: Device) -> None:
    """Check that Muon updates a matrix of one row, which one process has whole and the others do not have at all."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 1), nn.Linear(8, 1)]
    layers[1].load_state_dict(layers[0].state_dict())
    fully_shard(layers[1], mesh=init_device_mesh("cpu", (device.process_group.size,)))
    for layer in layers:
        layer(torch.ones(3, 8)).sum().backward()
        weight, bias = layer.parameters()
        others = [{"params": [bias], "weight_decay": 0.0}]
        Muon([weight], others, momentum=0.9, weight_decay=0.1, lr=1e-2, betas=(0.9, 0.95), eps=1e-8).step()
    torch.testing.assert_close(whole(layers[1].weight.data), layers[0].weight.data)


def expect(kind: type[Exception], action: Callable[[], Any]) -> None:
    try:
        action()
    except kind:
        return
    raise AssertionError(f"no {kind.__name__}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open_process_group() as process_group:
        action = {"write": write, "read": read}[sys.argv[1]]
        action(Path(sys.argv[2]), sys.argv[3], replace(CPU, process_group=process_group, parallel="shard"))
