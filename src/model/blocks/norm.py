"""Normalization: RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016), computed in fp32."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import should_use_cpu_kernel

EPS = 1e-5
EPS_TENSOR = torch.tensor(EPS)
MAX_DECODING_SIZE = 1 << 14
"""Elements up to which a CPU's time depends on the number of operations, as in decoding."""


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """Return x / rms(x) * weight for x (..., D) and weight (D,), both fp32."""
    if torch.is_grad_enabled() or x.numel() > MAX_DECODING_SIZE or not should_use_cpu_kernel(x):
        return F.rms_norm(x, weight.shape, weight, EPS)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # five operations instead of torch's eight
    return x * torch.addcmul(EPS_TENSOR, norm, norm, value=1 / x.shape[-1]).rsqrt_() * weight


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.float(), self.weight).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight (+ bias) over the last dimension."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, EPS).to(x.dtype)


def build_norm(spec: ModelSpec) -> nn.Module:
    """Build the norm of the recipe for width `d_model`."""
    return RMSNorm(spec.d_model) if spec.norm == "rmsnorm" else LayerNorm(spec.d_model, spec.bias)
