"""Reference implementation of `token_loss`: cross-entropy by its definition."""

import torch
from torch import Tensor


def reference_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of -log p(target), with p the softmax of hidden (M, D) head^T (D, V); targets (M,)."""
    logits = hidden.double() @ head.double().T
    losses = [logits_of_one.exp().sum().log() - logits_of_one[target] for logits_of_one, target in zip(logits, targets)]  # noqa: B905
    return torch.stack(losses).mean()
