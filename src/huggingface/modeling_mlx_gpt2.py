"""GPT-2 of Advanced Code Model for mlx-lm 0.31 or later: load with `trust_remote_code=True`.

mlx-lm's own class has no head apart from the embedding and one width of the MLP, and expects names without
`transformer.`.
"""

# mlx is in no extra of the development environment.
# pyright: reportMissingImports=false

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx import nn
from mlx_lm.models import gpt2
from mlx_lm.models.gpt2 import ModelArgs as GPT2Args


@dataclass
class ModelArgs(GPT2Args):
    """The settings of GPT-2."""

    n_inner: int | None = None
    tie_word_embeddings: bool = True


class Model(gpt2.Model):
    """GPT-2 with a head of its own, if it is not tied."""

    def __init__(self, args: ModelArgs) -> None:
        super().__init__(args)
        for block in self.model.h:
            width = args.n_inner or 4 * args.n_embd
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(args.n_embd, width), nn.Linear(width, args.n_embd)
        if not args.tie_word_embeddings:
            self.lm_head = nn.Linear(args.n_embd, args.vocab_size, bias=False)

    def __call__(self, inputs: mx.array, cache: Any = None) -> mx.array:
        """Map tokens (B, T) to logits (B, T, V)."""
        if self.args.tie_word_embeddings:
            return super().__call__(inputs, cache)
        return self.lm_head(self.model(inputs, cache))

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """Give the tensors of the file the names and layouts of mlx-lm."""
        head = {name: value for name, value in weights.items() if name.startswith("lm_head.")}
        body = {name.removeprefix("transformer."): value for name, value in weights.items() if name not in head}
        return super().sanitize(body) | head
