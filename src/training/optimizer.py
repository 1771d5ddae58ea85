"""AdamW with weight decay on matrices alone."""

import torch

from src.config import OptimizerConfig
from src.model.language_model import LanguageModel


def build_optimizer(model: LanguageModel, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build fused AdamW with two groups: decayed, and what the model says decay must leave alone."""
    no_decay = model.no_decay()
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if name not in no_decay], "weight_decay": config.weight_decay},
        {"params": [p for name, p in named if name in no_decay], "weight_decay": 0.0},
    ]
    first, second = config.betas
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(first, second), eps=config.eps, fused=True)
