"""Reference implementation of the two functions of flash-linear-attention (fla-core 0.6) that we call: step by step.

B, T: batch, position; H: heads; K, V: head widths of keys and values.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
from torch import Tensor

from tests.reference.delta_rule import sequential_delta_rule


def chunk_simple_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
) -> tuple[Tensor, Tensor]:
    """Run S_t = exp(g_t) S_{t-1} + k_t v_t^T, o_t = scale S_t^T q_t, and return all o and the last S.

    q, k: (B, T, H, K); v: (B, T, H, V); g: (B, T, H); initial_state: (B, H, K, V), zeros if None.
    """
    assert output_final_state
    parts = (q, k, v, g)
    q, k, v, g = (part.double() for part in parts)
    state = q.new_zeros(*q[:, 0].shape, v.shape[-1]) if initial_state is None else initial_state.double()
    outputs = []
    for t in range(q.shape[1]):
        state = g[:, t, :, None, None].exp() * state + k[:, t, :, :, None] * v[:, t, :, None]
        outputs.append(scale * torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
    return torch.stack(outputs, dim=1).to(parts[0].dtype), state.float()


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """Run the gated delta rule with the log decay g; shapes as above, beta: (B, T, H)."""
    assert output_final_state and chunk_size in (16, 32, 64)
    o, state = sequential_delta_rule(scale * q, k, v, g, beta, initial_state)
    return o.to(q.dtype), state.float()


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put these functions in the place of the library's, which need not be installed."""
    for name in ("fla", "fla.ops", "fla.ops.simple_gla", "fla.ops.gated_delta_rule"):
        module = ModuleType(name)
        module.__path__, module.__spec__ = [], ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    for function in (chunk_simple_gla, chunk_gated_delta_rule):
        module = sys.modules[f"fla.ops.{function.__name__.removeprefix('chunk_')}"]
        monkeypatch.setattr(module, function.__name__, function, raising=False)
