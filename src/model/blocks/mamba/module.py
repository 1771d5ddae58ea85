"""Mamba-2: a gated state-space layer computed by state-space duality (Dao and Gu, 2024).

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        (per head; A a negative scalar)
    y_t = C_t h_t + D x_t

Training and prefill compute the recurrence in chunks (`ssd.py`; on a CPU `cpu_ssd.py`; with `runtime.kernels=fla`
`fla_kernels.py`), decoding step by step. With document ids, each document starts from a state of zeros. With
`negative_eigenvalues`, 2 exp(dt_t A) - 1 takes the place of exp(dt_t A), as state tracking needs (Grazzi et al., 2024,
arXiv 2411.12537).

With several groups, B and C are shared by the heads of a group, and each group has its own norm: a group is computed
like a layer of its own.

B, T: batch, position; H, P: heads, head_dim; G: n_groups; N: d_state; K: d_conv; D_inner = H * P.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear, inverse_softplus, log_uniform
from src.model.blocks.convolution import convolve
from src.model.blocks.fla_kernels import fla_ssd
from src.model.blocks.linear import Linear
from src.model.blocks.mamba.ssd import signed_ssd, signed_transition, ssd
from src.model.blocks.norm import rms_norm

DT_RANGE = (1e-3, 1e-1)
MIN_DT = 1e-4
A_RANGE = (1.0, 16.0)


class MambaCache:
    """The last K - 1 inputs of the convolution and the state of the recurrence; also used by Mamba-1."""

    def __init__(self, conv: Tensor, state: Tensor) -> None:
        self.conv = conv  # (B, K - 1, C): C channels go through the convolution
        self.state = state  # (B, N, H, P) here and (B, D_inner, N) for Mamba-1, fp32
        self.offset = 0


def draw_dt_bias(count: int) -> Tensor:
    """Draw biases whose softplus, dt, is log-uniform over `DT_RANGE`."""
    return inverse_softplus(log_uniform(count, *DT_RANGE).clamp(min=MIN_DT))


class Mamba(Block):
    """The Mamba-2 block: one input projection, causal convolution, state-space layer, gated norm, output projection."""

    has_fla_kernel = True
    memory_budget = 0.5  # a dozen element-wise results between the products are as cheap to recompute as to read

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.d_conv = spec.d_inner, spec.d_state, spec.d_conv
        self.n_heads, self.head_dim, self.chunk_size = spec.n_ssm_heads, spec.head_dim, spec.chunk_size
        self.norm_eps, self.n_groups, self.bc_width = spec.norm_eps, spec.n_groups, spec.n_groups * spec.d_state
        self.negative_eigenvalues = spec.negative_eigenvalues
        channels = spec.d_inner + 2 * self.bc_width
        self.in_proj = Linear(spec.d_model, spec.d_inner + channels + self.n_heads, bias=False)  # z, x, B, C, dt
        self.conv_weight = nn.Parameter(torch.empty(channels, spec.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(channels))
        self.A_log = nn.Parameter(torch.empty(self.n_heads))
        self.D = nn.Parameter(torch.empty(self.n_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.n_heads))
        self.norm_weight = nn.Parameter(torch.empty(spec.d_inner))
        self.out_proj = Linear(spec.d_inner, spec.d_model, bias=False)

    def forward(self, x: Tensor, cache: MambaCache | None = None, documents: Tensor | None = None) -> BlockOutput:
        y = self.recompute(self._mix, self.in_proj(x), cache, documents)  # a dozen results as large as its input
        if cache is not None:
            cache.offset += x.shape[1]
        return BlockOutput(self.out_proj(y.to(x.dtype)))

    def _mix(self, projected: Tensor, cache: MambaCache | None, documents: Tensor | None) -> Tensor:
        """Map z, x, B, C and dt (B, T, ...) to the normalized output (B, T, D_inner) of the state space, in fp32."""
        channels = self.d_inner + 2 * self.bc_width
        gate, conv_in, dt = projected.split((self.d_inner, channels, self.n_heads), dim=-1)
        hidden = F.silu(convolve(conv_in, self.conv_weight, self.conv_bias, cache, documents))
        with torch.autocast(projected.device.type, enabled=False):
            y = self._run_state_space(hidden.float(), dt.float(), cache, documents)
            y = y * F.silu(gate.float())  # the norm comes after the gate
            if self.n_groups == 1:
                return rms_norm(y, self.norm_weight, self.norm_eps)
            groups = y.unflatten(-1, (self.n_groups, -1))
            return rms_norm(groups, y.new_ones(groups.shape[-1]), self.norm_eps).flatten(-2) * self.norm_weight

    def _run_state_space(
        self, hidden: Tensor, dt: Tensor, cache: MambaCache | None, documents: Tensor | None
    ) -> Tensor:
        """Map the convolved x, B, C (B, T, C) and raw dt (B, T, H) to y (B, T, D_inner), in fp32."""
        x, b, c = hidden.split((self.d_inner, self.bc_width, self.bc_width), dim=-1)
        x = x.unflatten(-1, (self.n_heads, self.head_dim))
        dt = F.softplus(dt + self.dt_bias)
        a = -self.A_log.exp()
        state, is_step = cache.state if cache else None, cache is not None and x.shape[1] == 1
        if self.n_groups == 1:
            y, state = self._scan(x, dt, a, b, c, state, documents, is_step)
        else:
            n = self.n_groups
            parts = [x.chunk(n, 2), dt.chunk(n, 2), a.chunk(n), b.chunk(n, -1), c.chunk(n, -1)]
            parts.append((None,) * n if state is None else state.chunk(n, 2))
            found = [self._scan(*group, documents=documents, is_step=is_step) for group in zip(*parts, strict=True)]
            y, state = (torch.cat(each, dim=2) for each in zip(*found, strict=True))
        if cache is not None:
            cache.state = state
        return torch.addcmul(y, x, self.D[:, None]).flatten(-2)

    def _scan(
        self,
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        state: Tensor | None,
        documents: Tensor | None,
        is_step: bool,
    ) -> tuple[Tensor, Tensor]:
        """Run the recurrence over the heads of one group, as `ssd`; is_step: over one position, from a state."""
        if is_step:  # (B, 1, H, 1) and (B, N, 1, 1) against the state (B, N, H, P)
            assert state is not None
            decay = signed_transition(dt, a) if self.negative_eigenvalues else (dt * a).exp()
            state = torch.addcmul(state * decay.unsqueeze(-1), b.mT.unsqueeze(-1), x * dt.unsqueeze(-1))
            return (c @ state.flatten(2)).view_as(x), state
        scan = fla_ssd if self.uses_fla else ssd
        scan = partial(signed_ssd, scan=scan) if self.negative_eigenvalues else scan
        return scan(x, dt, a, b, c, self.chunk_size, state, documents)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> MambaCache:
        conv = like.new_zeros(batch_size, self.d_conv - 1, self.conv_weight.shape[0])
        state = like.new_zeros(batch_size, self.d_state, self.n_heads, self.head_dim, dtype=torch.float32)
        return MambaCache(conv, state)

    def packed_projections(self) -> dict[str, tuple[int, ...]]:
        return {"in_proj.weight": (self.d_inner, self.d_inner, self.bc_width, self.bc_width, self.n_heads)}

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.in_proj)
        init_linear(self.out_proj, INIT_STD * residual_scale)
        bound = self.d_conv**-0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)
        nn.init.ones_(self.D)
        nn.init.ones_(self.norm_weight)
        with torch.no_grad():
            self.A_log.uniform_(*A_RANGE).log_()
            self.dt_bias.copy_(draw_dt_bias(self.n_heads))
