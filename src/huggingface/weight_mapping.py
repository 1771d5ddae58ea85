"""How our tensors lie in the files of transformers: one tensor of ours is tied to one or several of theirs.

Every tie is a rearrangement without arithmetic, so that going there and back changes no bit.

D: d_model; F: width of the mlp; E: experts; C, K: channels and kernel of the convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class Tie(NamedTuple):
    """One tensor of ours, and those that hold the same numbers in the other's layout."""

    ours: str
    theirs: tuple[str, ...]
    """Several: the rows of ours cut into equal parts, in this order; of (E, F, D) the E * F rows."""
    layout: str = "same"
    """`same`; `transposed`: (in, out) as GPT-2 has its matrices; `kernel`: (C, 1, K) for (C, K)."""

    def shape(self, ours: Shape) -> Shape:
        """Return the shape of each of theirs."""
        part = self._part(ours)
        if self.layout == "kernel":
            return (*part[:1], 1, *part[1:])
        return part[::-1] if self.layout == "transposed" else part

    def _part(self, ours: Shape) -> Shape:
        count = len(self.theirs)
        if count == 1:
            return ours
        rows, columns = (ours[0] * ours[1], ours[2:]) if len(ours) == 3 else (ours[0], ours[1:])
        return (rows // count, *columns)

    def to_theirs(self, tensor: Tensor) -> dict[str, Tensor]:
        """Cut and rearrange one of ours."""
        parts = tensor.reshape(len(self.theirs), *self._part(tuple(tensor.shape))).unbind(0)
        if self.layout == "transposed":
            parts = [part.T for part in parts]
        shape = self.shape(tuple(tensor.shape))
        return {name: part.reshape(shape).contiguous() for name, part in zip(self.theirs, parts, strict=True)}

    def to_ours(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """Put ours, of this shape, together again."""
        if self.layout == "transposed":
            parts = [part.T for part in parts]
        return torch.stack(list(parts)).reshape(shape)


def tie(ours: str, *theirs: str, layout: str = "same") -> Tie:
    return Tie(ours, theirs, layout)


def attention(ours: str, theirs: str) -> list[Tie]:
    """Tie fused q, k, v to three matrices, in the names of Llama."""
    return [
        tie(f"{ours}.qkv.weight", *(f"{theirs}.{part}_proj.weight" for part in "qkv")),
        tie(f"{ours}.out.weight", f"{theirs}.o_proj.weight"),
    ]


def state_space(ours: str, theirs: str, *more: tuple[str, str]) -> list[Tie]:
    """Tie what Mamba and Mamba-2 have in common, and `more` pairs of names."""
    same = ("in_proj.weight", "A_log", "D", "out_proj.weight")
    return [
        *(tie(f"{ours}.{name}", f"{theirs}.{name}") for name in same),
        tie(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", layout="kernel"),
        tie(f"{ours}.conv_bias", f"{theirs}.conv1d.bias"),
        *(tie(f"{ours}.{left}", f"{theirs}.{right}") for left, right in more),
    ]


def mamba2(ours: str, theirs: str) -> list[Tie]:
    return state_space(ours, theirs, ("dt_bias", "dt_bias"), ("norm_weight", "norm.weight"))


def mamba1(ours: str, theirs: str) -> list[Tie]:
    more = [("x_proj.weight",) * 2, ("dt_proj.weight",) * 2, ("dt_bias", "dt_proj.bias")]
    return state_space(ours, theirs, *more)


def gated_deltanet(ours: str, theirs: str) -> list[Tie]:
    """Tie our three fused projections to their six, in the names of OLMo's hybrid."""
    return [
        tie(f"{ours}.qk.weight", f"{theirs}.q_proj.weight", f"{theirs}.k_proj.weight"),
        tie(f"{ours}.value_gate.weight", f"{theirs}.v_proj.weight", f"{theirs}.g_proj.weight"),
        tie(f"{ours}.dt_beta.weight", f"{theirs}.a_proj.weight", f"{theirs}.b_proj.weight"),
        tie(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", layout="kernel"),
        tie(f"{ours}.A_log", f"{theirs}.A_log"),
        tie(f"{ours}.dt_bias", f"{theirs}.dt_bias"),
        tie(f"{ours}.norm_weight", f"{theirs}.o_norm.weight"),
        tie(f"{ours}.out_proj.weight", f"{theirs}.o_proj.weight"),
    ]


def experts(ours: str, theirs: str, count: int) -> list[Tie]:
    """Tie stacked experts to a matrix each, in the names of Mixtral: w1 is the gate, w3 goes up, w2 comes down."""
    names = [f"{theirs}.experts.{i}" for i in range(count)]
    return [
        tie(f"{ours}.router.weight", f"{theirs}.gate.weight"),
        tie(f"{ours}.w_in", *(f"{name}.{part}.weight" for name in names for part in ("w1", "w3"))),
        tie(f"{ours}.w_out", *(f"{name}.w2.weight" for name in names)),
    ]
