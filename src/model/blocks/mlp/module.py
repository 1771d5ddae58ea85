"""The feed-forward block: SwiGLU (Shazeer, 2020) or GELU in the tanh form of GPT-2."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear
from src.model.blocks.linear import Linear


def apply_activation(hidden: Tensor, kind: str) -> Tensor:
    """Apply the non-linearity: swiglu maps (..., 2F), gate first, to (..., F); gelu keeps (..., F)."""
    if kind == "swiglu":
        gate, up = hidden.chunk(2, dim=-1)
        return F.silu(gate) * up
    return F.gelu(hidden, approximate="tanh")


class MLP(Block):
    """y = W_out activation(W_in x)."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.kind = spec.mlp
        inputs = 2 if spec.mlp == "swiglu" else 1
        self.w_in = Linear(spec.d_model, inputs * spec.d_ff, bias=spec.bias)
        self.w_out = Linear(spec.d_ff, spec.d_model, bias=spec.bias)

    def forward(self, x: Tensor, cache: Any = None, documents: Tensor | None = None) -> BlockOutput:
        return BlockOutput(self.w_out(apply_activation(self.w_in(x), self.kind)))

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.w_in)
        init_linear(self.w_out, INIT_STD * residual_scale)
