"""The layout of our tensors in files of transformers: each of ours maps to one or several of theirs.

Every mapping is a rearrangement without arithmetic, so that a round trip changes no bit.

D: d_model; F: width of the mlp; E: experts; C, K: channels and kernel of the convolution.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from src.config.schema import ModelSpec

Shape = tuple[int, ...]


class TensorMapping(NamedTuple):
    """One of our tensors, and the tensors of transformers that hold the same numbers."""

    ours: str
    theirs: tuple[str, ...]
    """Several: the rows of ours split into parts, in this order; of (E, F, D) the E * F rows."""
    layout: str = "same"
    """`same`; `transposed`: (in, out) as in GPT-2; `kernel`: (C, 1, K) for (C, K); `qkv`: rows of q, k and v."""
    rows: tuple[int, ...] = ()
    """Rows of each of theirs; empty: equal parts."""

    def within(self, ours: str, theirs: str, spec: ModelSpec) -> "TensorMapping":
        """Prefix the names with those of a block and of its part of a layer; `*` stands for each expert in turn."""
        numbers = range(spec.n_experts) if "*" in self.theirs[0] else [0]
        names = (f"{theirs}.{name}".replace("*", str(i)) for i in numbers for name in self.theirs)
        rows = (spec.attention_width, spec.kv_width, spec.kv_width) if self.layout == "qkv" else ()
        return self._replace(ours=f"{ours}.{self.ours}", theirs=tuple(names), rows=rows)

    def shapes(self, ours: Shape) -> list[Shape]:
        """Return the shapes of theirs."""
        if self.rows:
            return [(rows, *ours[1:]) for rows in self.rows]
        part = self._part(ours)
        if self.layout == "kernel":
            part = (*part[:1], 1, *part[1:])
        return [part[::-1] if self.layout == "transposed" else part] * len(self.theirs)

    def _part(self, ours: Shape) -> Shape:
        count = len(self.theirs)
        if count == 1:
            return ours
        rows, columns = (ours[0] * ours[1], ours[2:]) if len(ours) == 3 else (ours[0], ours[1:])
        return (rows // count, *columns)

    def to_transformers(self, tensor: Tensor) -> dict[str, Tensor]:
        """Split and rearrange one of our tensors."""
        ours = tuple(tensor.shape)
        parts = tensor.split(self.rows) if self.rows else tensor.reshape(len(self.theirs), *self._part(ours)).unbind(0)
        if self.layout == "transposed":
            parts = [part.T for part in parts]
        found = zip(self.theirs, parts, self.shapes(ours), strict=True)
        return {name: part.reshape(shape).contiguous() for name, part, shape in found}

    def from_transformers(self, parts: Sequence[Tensor], shape: Shape) -> Tensor:
        """Build our tensor of this shape from theirs."""
        if self.rows:
            return torch.cat(list(parts))
        if self.layout == "transposed":
            parts = [part.T for part in parts]
        return torch.stack(list(parts)).reshape(shape)


def map_tensor(ours: str, *theirs: str, layout: str = "same") -> TensorMapping:
    return TensorMapping(ours, theirs, layout)


def map_equal_names(*names: str) -> list[TensorMapping]:
    return [map_tensor(name, name) for name in names]


ATTENTION = [
    map_tensor("qkv.weight", "q_proj.weight", "k_proj.weight", "v_proj.weight", layout="qkv"),
    map_tensor("out.weight", "o_proj.weight"),
]
"""With the names of Llama."""
BIASED_ATTENTION = [*ATTENTION, map_tensor("qkv.bias", "q_proj.bias", "k_proj.bias", "v_proj.bias", layout="qkv")]
QK_NORM_ATTENTION = [*ATTENTION, *(map_tensor(f"{part}_norm", f"{part}_norm.weight") for part in "qk")]
SWIGLU = [
    map_tensor("w_in.weight", "gate_proj.weight", "up_proj.weight"),
    map_tensor("w_out.weight", "down_proj.weight"),
]
_STATE_SPACE = [
    *map_equal_names("in_proj.weight", "A_log", "D", "out_proj.weight"),
    map_tensor("conv_weight", "conv1d.weight", layout="kernel"),
    map_tensor("conv_bias", "conv1d.bias"),
]
MAMBA2 = [*_STATE_SPACE, map_tensor("dt_bias", "dt_bias"), map_tensor("norm_weight", "norm.weight")]
MAMBA1 = [*_STATE_SPACE, *map_equal_names("x_proj.weight", "dt_proj.weight"), map_tensor("dt_bias", "dt_proj.bias")]
GATED_DELTANET = [
    map_tensor("qk.weight", "q_proj.weight", "k_proj.weight"),
    map_tensor("value_gate.weight", "v_proj.weight", "g_proj.weight"),
    map_tensor("dt_beta.weight", "a_proj.weight", "b_proj.weight"),
    map_tensor("conv_weight", "conv1d.weight", layout="kernel"),
    *map_equal_names("A_log", "dt_bias"),
    map_tensor("norm_weight", "o_norm.weight"),
    map_tensor("out_proj.weight", "o_proj.weight"),
]
"""With the names of OLMo's hybrid."""
EXPERTS = [
    map_tensor("router.weight", "gate.weight"),
    map_tensor("w_in", "experts.*.w1.weight", "experts.*.w3.weight"),
    map_tensor("w_out", "experts.*.w2.weight"),
]
"""One matrix for each expert, with the names of Mixtral: w1 is the gate, w3 up, w2 down."""
