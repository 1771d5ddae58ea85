"""Normalisation: RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016), computed in fp32."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config import ModelSpec

EPS = 1e-5


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, EPS).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight (+ bias) over the last dimension."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, EPS).to(x.dtype)


def build_norm(spec: ModelSpec) -> nn.Module:
    """Build the norm of the recipe, `d_model` wide."""
    return RMSNorm(spec.d_model) if spec.norm == "rmsnorm" else LayerNorm(spec.d_model, spec.bias)
