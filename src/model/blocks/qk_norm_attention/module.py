"""Causal attention with queries and keys normalized in each head (QK-norm: Henry et al., 2020, arXiv 2010.04245).

RMSNorm with one weight per channel of a head, before the rotary positions, as in Qwen3 and OLMo 2. It bounds the
scores, so training is stable at higher learning rates: a control for how much of another architecture's advantage is
due to its learning rate.

B, T: batch, position; H, G: heads of queries, of keys and values; P: head_dim.
"""

import torch
from torch import Tensor, nn

from src.config.schema import ModelSpec
from src.model.blocks.attention.module import Attention
from src.model.blocks.norm import rms_norm


class QKNormAttention(Attention):
    """Attention over normalized queries and keys."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.norm_eps = spec.norm_eps
        self.q_norm = nn.Parameter(torch.ones(spec.head_dim))
        self.k_norm = nn.Parameter(torch.ones(spec.head_dim))

    def normalize(self, qk: Tensor) -> Tensor:
        ones = self.q_norm.new_ones(self.head_dim)
        weights = torch.cat((self.q_norm.expand(self.n_heads, -1), self.k_norm.expand(self.n_kv_heads, -1)))
        return (rms_norm(qk.float(), ones, self.norm_eps) * weights).to(qk.dtype)

    def init_weights(self, residual_scale: float) -> None:
        super().init_weights(residual_scale)
        nn.init.ones_(self.q_norm)
        nn.init.ones_(self.k_norm)
