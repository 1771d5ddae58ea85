"""AdamW, or Muon for the matrices; weight decay on matrices alone."""

import torch

from src.config.schema import OptimizerConfig
from src.model.language_model import LanguageModel
from src.training.muon import Muon

NOT_FOR_MUON = ("conv_weight", "router.weight")
"""Matrices in shape, but not maps of the residual stream: a row a channel, a row an expert."""


def build_optimizer(model: LanguageModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimizer with its groups: decayed, and what the model says decay must leave alone.

    With Muon, the matrices of the blocks come first; embeddings, head and all that is no matrix stay with AdamW.
    """
    no_decay = model.no_decay()
    decayed = {name: parameter for name, parameter in model.named_parameters() if name not in no_decay}
    matrices = {
        name: parameter
        for name, parameter in decayed.items()
        if config.name == "muon" and name.startswith("blocks.") and not name.endswith(NOT_FOR_MUON)
    }
    groups = [
        {"params": [p for name, p in decayed.items() if name not in matrices], "weight_decay": config.weight_decay},
        {"params": [p for name, p in model.named_parameters() if name in no_decay], "weight_decay": 0.0},
    ]
    first, second = config.betas
    adamw = {"lr": config.learning_rate, "betas": (first, second), "eps": config.eps}
    if config.name == "muon":
        decay = config.weight_decay
        fused = {matrices[name]: rows for name, rows in model.fused().items()}
        return Muon(list(matrices.values()), groups, fused, momentum=config.momentum, weight_decay=decay, **adamw)
    return torch.optim.AdamW(groups, fused=True, **adamw)
