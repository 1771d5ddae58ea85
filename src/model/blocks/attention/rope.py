"""Rotary positions (Su et al., 2021) in Llama's half-split layout, and two ways of scaling them for longer contexts.

`linear` divides every position by a factor (Chen et al., 2023, arXiv 2306.15595). `llama3` (Llama 3.1, 2024) divides
the frequencies of long wavelengths alone, and blends between the two limits.

B, T: batch, position; H: heads; P: head_dim.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from src.config.schema import ModelSpec

ROPE_THETA = 10000.0
"""The default of `recipe.rope_theta`."""


class Rope(NamedTuple):
    """The frequencies of a model's rotary positions; the fields are those of the recipe."""

    theta: float = ROPE_THETA
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_seq_len: int = 8192

    def frequencies(self, width: int, device: torch.device) -> Tensor:
        """Return the angle by which a position turns each pair of a head, (P/2,) in fp32."""
        half = width // 2
        found = self.theta ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
        if self.scaling == "linear":
            return found / self.factor
        if self.scaling == "llama3":
            turns = found * (self.original_seq_len / (2 * math.pi))  # of each pair within the original context
            share = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            share = share.clamp(0, 1)
            return found * (share + (1 - share) / self.factor)
        return found


UNSCALED = Rope()
"""Rotary positions of the default recipe."""


def rope_of(spec: ModelSpec) -> Rope:
    """Return the rotary positions of a model."""
    return Rope(
        spec.rope_theta,
        spec.rope_scaling,
        spec.rope_factor,
        spec.rope_low_freq_factor,
        spec.rope_high_freq_factor,
        spec.rope_original_seq_len,
    )


def apply_rope(x: Tensor, offset: int, rope: Rope = UNSCALED) -> Tensor:
    """Rotate each pair (x_i, x_{i + P/2}) of x (..., T, P) by its position times its frequency, in fp32.

    A compiler fuses the two halves into one loop. In eager mode, fewer operations on whole rows give the same numbers.
    """
    key = offset, x.shape[-2], x.shape[-1], x.device, rope
    y = x.float()
    first, second = y.chunk(2, dim=-1)
    if torch.compiler.is_compiling():
        cos, sin = rope_cos_sin(*key)
        rotated = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    else:
        cos, sin = _cached_cos_sin(*key, torch.is_inference_mode_enabled())
        rotated = y * cos + torch.cat((second, first), dim=-1) * sin
    return rotated.to(x.dtype)


def rope_cos_sin(offset: int, length: int, width: int, device: torch.device, rope: Rope) -> tuple[Tensor, Tensor]:
    """Compute cosine and sine (T, P/2) of the rotation angles."""
    position = torch.arange(offset, offset + length, device=device, dtype=torch.float32)
    angle = position[:, None] * rope.frequencies(width, device)
    return angle.cos(), angle.sin()


@lru_cache(maxsize=2)
def _cached_cos_sin(
    offset: int, length: int, width: int, device: torch.device, rope: Rope, inference: bool
) -> tuple[Tensor, Tensor]:
    """Return cosine and sine (T, P), once for all layers, from a table that covers many tokens of a text."""
    end = 1 << (offset + length - 1).bit_length()
    cos, sin = _cos_sin_table(end, width, device, rope, inference)
    return cos[offset : offset + length], sin[offset : offset + length]


@lru_cache(maxsize=2)
def _cos_sin_table(length: int, width: int, device: torch.device, rope: Rope, inference: bool) -> tuple[Tensor, Tensor]:
    """Compute both for the first positions (T, P), each half repeated; the sine of the first half is negated.

    inference: whether inference mode is on; tensors created in that mode cannot be used in training.
    """
    cos, sin = rope_cos_sin(0, length, width, device, rope)
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
