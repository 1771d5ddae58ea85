"""One of several processes that measure the memory of a training step in shards: started by torchrun.

    torchrun --nproc-per-node 2 -m tests.profiling.sharded_peak dense micro

Prints the estimate and the measured peak of each process in bytes, as JSON.
"""

import json
import sys

import torch

from src.config.schema import OptimizerConfig, RuntimeConfig
from src.model.blocks.base import disable_cpu_kernels
from src.model.build import build_model
from src.model.size_matching import match_config
from src.profiling.memory_measurement import peak_growth
from src.runs.resource_check import memory_needed
from src.runtime.device import open_device
from src.runtime.distributed import open_process_group
from src.training.optimizers import build_optimizer
from src.training.parallel import local, parallelize
from src.training.train_step import TrainState
from src.training.trial_step import random_step
from tests.contract.small import composed


@disable_cpu_kernels()
def main(architecture: str, size: str) -> None:
    """Train three steps in shards, and measure the last, when the optimizer has its state."""
    config = composed(
        architecture, "modern", f"size={size}", "runtime=cpu", "runtime.parallel=shard", "training.seq_len=128",
        "training.micro_batch_size=2", "training.global_batch_size=8",
    )  # fmt: skip
    spec = match_config(config).spec
    with open_process_group() as process_group:
        device = open_device(RuntimeConfig("cpu", device="cpu", parallel="shard", threads=1), process_group)
        model = build_model(spec, seed=0)
        parallelize(model, device)
        optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=1e-4))
        state = TrainState.begin("language", model, optimizer, device)

        def step() -> None:
            random_step(state, device, seq_len=128, micro_batch_size=2, accumulate=True, document_masking=False)

        for _ in range(2):
            step()
        moments = [value for each in optimizer.state.values() for value in each.values()]
        held = sum(local(tensor).nbytes for tensor in [*model.parameters(), *moments])
        peaks = process_group.map(lambda _: held + peak_growth(step), range(process_group.size))
        if process_group.is_rank_zero:
            needed = memory_needed(config, spec)
            print(json.dumps({"estimate": needed.total, "parts": needed.parts(), "held": held, "measured": peaks}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
