"""The layout of our tensors in files of transformers: each of ours maps to one or several of theirs.

Every mapping is a rearrangement without arithmetic, so that a round trip changes no bit.

D: d_model; F: width of the mlp; E: experts; C, K: channels and kernel of the convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Shape = tuple[int, ...]


class TensorMapping(NamedTuple):
    """One of our tensors, and the tensors of transformers that hold the same numbers."""

    ours: str
    theirs: tuple[str, ...]
    """Several: the rows of ours split into equal parts, in this order; of (E, F, D) the E * F rows."""
    layout: str = "same"
    """`same`; `transposed`: (in, out) as in GPT-2; `kernel`: (C, 1, K) for (C, K)."""

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

    def to_transformers(self, tensor: Tensor) -> dict[str, Tensor]:
        """Split and rearrange one of our tensors."""
        parts = tensor.reshape(len(self.theirs), *self._part(tuple(tensor.shape))).unbind(0)
        if self.layout == "transposed":
            parts = [part.T for part in parts]
        shape = self.shape(tuple(tensor.shape))
        return {name: part.reshape(shape).contiguous() for name, part in zip(self.theirs, parts, strict=True)}

    def from_transformers(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """Build our tensor of this shape from theirs."""
        if self.layout == "transposed":
            parts = [part.T for part in parts]
        return torch.stack(list(parts)).reshape(shape)


def map_tensor(ours: str, *theirs: str, layout: str = "same") -> TensorMapping:
    return TensorMapping(ours, theirs, layout)


def map_attention(ours: str, theirs: str) -> list[TensorMapping]:
    """Map packed q, k, v to three matrices, with the names of Llama."""
    return [
        map_tensor(f"{ours}.qkv.weight", *(f"{theirs}.{part}_proj.weight" for part in "qkv")),
        map_tensor(f"{ours}.out.weight", f"{theirs}.o_proj.weight"),
    ]


def map_state_space(ours: str, theirs: str, *more: tuple[str, str]) -> list[TensorMapping]:
    """Map the tensors that Mamba and Mamba-2 have in common, and `more` pairs of names."""
    same = ("in_proj.weight", "A_log", "D", "out_proj.weight")
    return [
        *(map_tensor(f"{ours}.{name}", f"{theirs}.{name}") for name in same),
        map_tensor(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", layout="kernel"),
        map_tensor(f"{ours}.conv_bias", f"{theirs}.conv1d.bias"),
        *(map_tensor(f"{ours}.{left}", f"{theirs}.{right}") for left, right in more),
    ]


def map_mamba2(ours: str, theirs: str) -> list[TensorMapping]:
    return map_state_space(ours, theirs, ("dt_bias", "dt_bias"), ("norm_weight", "norm.weight"))


def map_mamba1(ours: str, theirs: str) -> list[TensorMapping]:
    more = [("x_proj.weight",) * 2, ("dt_proj.weight",) * 2, ("dt_bias", "dt_proj.bias")]
    return map_state_space(ours, theirs, *more)


def map_gated_deltanet(ours: str, theirs: str) -> list[TensorMapping]:
    """Map our three packed projections to six of theirs, with the names of OLMo's hybrid."""
    return [
        map_tensor(f"{ours}.qk.weight", f"{theirs}.q_proj.weight", f"{theirs}.k_proj.weight"),
        map_tensor(f"{ours}.value_gate.weight", f"{theirs}.v_proj.weight", f"{theirs}.g_proj.weight"),
        map_tensor(f"{ours}.dt_beta.weight", f"{theirs}.a_proj.weight", f"{theirs}.b_proj.weight"),
        map_tensor(f"{ours}.conv_weight", f"{theirs}.conv1d.weight", layout="kernel"),
        map_tensor(f"{ours}.A_log", f"{theirs}.A_log"),
        map_tensor(f"{ours}.dt_bias", f"{theirs}.dt_bias"),
        map_tensor(f"{ours}.norm_weight", f"{theirs}.o_norm.weight"),
        map_tensor(f"{ours}.out_proj.weight", f"{theirs}.o_proj.weight"),
    ]


def map_experts(ours: str, theirs: str, count: int) -> list[TensorMapping]:
    """Map stacked experts to one matrix each, with the names of Mixtral: w1 is the gate, w3 up, w2 down."""
    names = [f"{theirs}.experts.{i}" for i in range(count)]
    return [
        map_tensor(f"{ours}.router.weight", f"{theirs}.gate.weight"),
        map_tensor(f"{ours}.w_in", *(f"{name}.{part}.weight" for name in names for part in ("w1", "w3"))),
        map_tensor(f"{ours}.w_out", *(f"{name}.w2.weight" for name in names)),
    ]
