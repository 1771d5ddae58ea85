"""AdamW, or Muon for matrices; weight decay for matrices only."""

import torch

from src.config.schema import OptimizerConfig
from src.model.language_model import LanguageModel
from src.training.muon import Muon

EXCLUDED_FROM_MUON = ("conv_weight", "router.weight")
"""Two-dimensional, but not projections of the residual stream: one row per channel, or one per expert."""


def build_optimizer(model: LanguageModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer with its groups: parameters with and without weight decay.

    With Muon, the first group has the matrices of the blocks; embeddings, head and other parameters use AdamW.
    """
    no_decay = model.no_decay()
    decayed = {name: parameter for name, parameter in model.named_parameters() if name not in no_decay}
    matrices = {
        name: parameter
        for name, parameter in decayed.items()
        if config.name == "muon" and name.startswith("blocks.") and not name.endswith(EXCLUDED_FROM_MUON)
    }
    groups = [
        {"params": [p for name, p in decayed.items() if name not in matrices], "weight_decay": config.weight_decay},
        {"params": [p for name, p in model.named_parameters() if name in no_decay], "weight_decay": 0.0},
    ]
    first, second = config.betas
    adamw = {"lr": config.learning_rate, "betas": (first, second), "eps": config.eps}
    if config.name == "muon":
        decay = config.weight_decay
        packed = {matrices[name]: rows for name, rows in model.packed_projections().items()}
        return Muon(list(matrices.values()), groups, packed, momentum=config.momentum, weight_decay=decay, **adamw)
    return torch.optim.AdamW(groups, fused=True, **adamw)
