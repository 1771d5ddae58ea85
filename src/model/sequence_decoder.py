"""The decoder of the compression task: all positions from the last hidden state (MAD, arXiv 2403.17844).

    y_t = f(h_T + p_t)        f: twice norm, linear map of equal width, GELU; p: fixed sines and cosines

The answers of a sequence of T tokens are read from y, so that all of them have to be in h_T. MAD's authors have the
same layers. Their cost is equal for all architectures of a width, so size matching does not count them.

B, T, D: batch, position, width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import init_linear
from src.model.blocks.norm import build_norm
from src.model.cost.model_cost import DECODER_LAYERS

LONGEST_PERIOD = 10_000.0


def sine_positions(length: int, width: int, like: Tensor) -> Tensor:
    """Return fixed vectors of positions (T, D): sines in the first half, cosines in the second."""
    half = -(-width // 2)
    exponents = torch.arange(half, device=like.device, dtype=torch.float32) / max(1, half - 1)
    angles = torch.arange(length, device=like.device)[:, None] * LONGEST_PERIOD**-exponents
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width].to(like.dtype)


class SequenceDecoder(nn.Module):
    """Map hidden states (B, T, D) to as many vectors that depend on the last one alone."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.norms = nn.ModuleList(build_norm(spec) for _ in range(DECODER_LAYERS))
        self.layers = nn.ModuleList(nn.Linear(spec.d_model, spec.d_model) for _ in range(DECODER_LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, -1:] + sine_positions(x.shape[1], x.shape[2], x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = F.gelu(layer(norm(x)))
        return x

    def init_weights(self) -> None:
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            init_linear(layer)
