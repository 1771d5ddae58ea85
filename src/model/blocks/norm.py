"""Normalization: RMSNorm (Zhang and Sennrich, 2019) or LayerNorm (Ba et al., 2016), computed in fp32."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import should_use_cpu_kernel

EPS = 1e-5
"""The default of `recipe.norm_eps`."""
MAX_DECODING_SIZE = 1 << 14
"""Elements up to which a CPU's time depends on the number of operations, as in decoding."""


@cache
def _as_tensor(eps: float) -> Tensor:
    return torch.tensor(eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float = EPS) -> Tensor:
    """Return x / rms(x) * weight for x (..., D) and weight (D,), both fp32; eps is added to the mean square."""
    if torch.is_grad_enabled() or x.numel() > MAX_DECODING_SIZE or not should_use_cpu_kernel(x):
        return F.rms_norm(x, weight.shape, weight, eps)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)  # five operations instead of torch's eight
    return x * torch.addcmul(_as_tensor(eps), norm, norm, value=1 / x.shape[-1]).rsqrt_() * weight


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, width: int, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x.float(), self.weight, self.eps).to(x.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight (+ bias) over the last dimension."""

    def __init__(self, width: int, bias: bool, eps: float = EPS) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, self.bias, self.eps).to(x.dtype)


def build_norm(spec: ModelSpec) -> nn.Module:
    """Build the norm of the recipe for width `d_model`."""
    if spec.norm == "rmsnorm":
        return RMSNorm(spec.d_model, spec.norm_eps)
    return LayerNorm(spec.d_model, spec.bias, spec.norm_eps)
