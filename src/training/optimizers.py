"""AdamW, or Muon for matrices; weight decay for matrices only."""

import torch

from src.config.schema import BF16_WEIGHTS, INT8_MOMENTS, OptimizerConfig
from src.model.language_model import LanguageModel
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from src.training.lean_adamw import LeanAdamW
from src.training.muon import Muon
from src.training.optimizer_base import AdamW


def prepare_weights(model: LanguageModel, memory: str) -> None:
    """Convert the matrices of the blocks to the type that `training.memory` asks for."""
    if memory in BF16_WEIGHTS:
        for name in model.matrices():
            matrix = model.get_parameter(name)
            matrix.data = matrix.data.to(torch.bfloat16)


def build_optimizer(
    model: LanguageModel,
    config: OptimizerConfig,
    memory: str = "full",
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> torch.optim.Optimizer:
    """Build the optimizer with its groups: parameters with and without weight decay. memory: `training.memory`.

    With Muon, the first group has the matrices of the blocks; embeddings, head and other parameters use AdamW, and the
    processes share its iterations if each holds the whole model.
    """
    no_decay, for_muon = model.no_decay(), model.matrices() if config.name == "muon" else set[str]()
    matrices = {name: parameter for name, parameter in model.named_parameters() if name in for_muon}
    decayed = [p for name, p in model.named_parameters() if name not in no_decay and name not in matrices]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for name, p in model.named_parameters() if name in no_decay], "weight_decay": 0.0},
    ]
    first, second = config.betas
    adamw = {"lr": config.learning_rate, "betas": (first, second), "eps": config.eps}
    if memory != "full":
        return LeanAdamW(groups, **adamw, has_8bit_moments=memory in INT8_MOMENTS)
    if config.name == "muon":
        decay = config.weight_decay
        packed = {matrices[name]: rows for name, rows in model.packed_projections().items()}
        return Muon(
            list(matrices.values()),
            groups,
            packed,
            momentum=config.momentum,
            weight_decay=decay,
            process_group=process_group,
            **adamw,
        )
    return AdamW(groups, fused=True, **adamw)
