"""Mamba-1: a gated selective state-space layer (Gu and Dao, 2023), scanned position by position.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        (per channel; A a negative row of N)
    y_t = C_t h_t + D x_t

Every channel decays each of its N states at its own rate, so the recurrence has no masked matrix product as in Mamba-2
and is run step by step. To save memory, the states of one chunk at a time are held, only those between chunks are
saved, and the backward pass recomputes the others (section 3.3.2 of the paper). The result does not depend on the chunk
size; `tests/reference/mamba1.py` is the reference implementation. With document ids, each document starts from zeros.
With `negative_eigenvalues`, the transition is 2 exp(dt_t A) - 1 in the place of exp(dt_t A), from -1 to 1, as state
tracking needs (Grazzi et al., 2024, arXiv 2411.12537).

B, T: batch, position; Q: chunk size; D_inner: channels; N: d_state; R: rank of dt; K: d_conv.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear
from src.model.blocks.convolution import convolve
from src.model.blocks.linear import Linear
from src.model.blocks.mamba.module import MambaCache, draw_dt_bias
from src.model.blocks.mamba1.cost import dt_rank


def selective_scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
    is_signed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence above, without the D term, from `state` (zeros if None).

    x, dt: (B, T, D_inner), dt positive; a: (D_inner, N), negative; b, c: (B, T, N); state: (B, D_inner, N); all of
    one dtype. documents: (B, T); the first document continues from `state`, the others start from zeros. is_signed:
    the transition is 2 exp(dt A) - 1.
    Returns y (B, T, D_inner) and the state after position T.
    """
    state = x.new_zeros(x.shape[0], *a.shape) if state is None else state
    begins = None if documents is None else F.pad(documents[:, 1:] != documents[:, :-1], (1, 0))
    return SelectiveScan.apply(x, dt, a, b, c, state, begins, chunk, is_signed)


def _fill_chunk(
    decay: Tensor,
    states: Tensor,
    start: Tensor,
    chunk: slice,
    dt: Tensor,
    inputs: Tensor,
    a: Tensor,
    b: Tensor,
    begins: Tensor | None,
    is_signed: bool,
) -> None:
    """Write the transition and h of one chunk, starting from `start`, into decay and states (Q, B, D_inner, N).

    dt, inputs: (T, B, D_inner); b: (T, B, N). begins: (B, T), whether a document begins. There the decay is 0, which
    resets the state, and the gradient in the backward pass.
    """
    torch.mul(dt[chunk, :, :, None], a, out=decay).exp_()
    if is_signed:
        decay.mul_(2).sub_(1)
    if begins is not None:
        decay.masked_fill_(begins.T[chunk, :, None, None], 0)
    torch.mul(inputs[chunk, :, :, None], b[chunk, :, None], out=states)
    after = states.unbind()
    for factor, previous, current in zip(decay.unbind(), (start, *after[:-1]), after, strict=True):
        current.addcmul_(factor, previous)


def scan(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    state: Tensor,
    begins: Tensor | None,
    chunk: int,
    is_signed: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return y, the last state, and the states at the start of each chunk (T / Q, B, D_inner, N).

    begins: (B, T), whether a document begins.
    """
    outputs = y, last, starts = _make_outputs(x, state, chunk)
    inputs, steps, b_steps, c_steps, y = (part.transpose(0, 1) for part in (x * dt, dt, b, c, y))
    length = len(inputs)
    decay, states = (state.new_empty(min(chunk, length), *state.shape) for _ in range(2))
    last.copy_(state)
    for start, first in zip(starts, range(0, length, chunk), strict=True):
        span, n = slice(first, first + chunk), min(chunk, length - first)
        start.copy_(last)
        _fill_chunk(decay[:n], states[:n], start, span, steps, inputs, a, b_steps, begins, is_signed)
        y[span] = (states[:n] @ c_steps[span, :, :, None])[..., 0]
        last.copy_(states[n - 1])
    return outputs


def _make_outputs(x: Tensor, state: Tensor, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Allocate the results of `scan`."""
    n_chunks = -(-x.shape[1] // chunk)
    return x.new_empty(x.shape), state.new_empty(state.shape), state.new_empty(n_chunks, *state.shape)


def scan_backward(
    dy: Tensor,
    d_last: Tensor,
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    starts: Tensor,
    begins: Tensor | None,
    chunk: int,
    is_signed: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Run g_t = C_t dy_t + exp(dt_{t+1} A) g_{t+1}, the gradient of h_t, from the last chunk to the first."""
    outputs = d_x, d_dt, d_a, d_b, d_c, d_state = _make_gradients(x, dt, a, b, c, d_last)
    inputs, steps, b_steps, c_steps, dy = (part.transpose(0, 1) for part in (x * dt, dt, b, c, dy))
    d_inputs, d_steps, d_b, d_c = (part.transpose(0, 1) for part in (d_x, d_dt, d_b, d_c))
    d_a.zero_()
    d_state.copy_(d_last)
    length = len(inputs)
    buffers = [a.new_empty(min(chunk, length), *d_state.shape) for _ in range(3)]
    for start, first in reversed(list(zip(starts, range(0, length, chunk), strict=True))):
        span = slice(first, first + chunk)
        decay, states, grads = (buffer[: length - first] for buffer in buffers)
        _fill_chunk(decay, states, start, span, steps, inputs, a, b_steps, begins, is_signed)
        d_c[span] = (dy[span, :, None] @ states)[:, :, 0]

        torch.mul(dy[span, :, :, None], c_steps[span, :, None], out=grads)
        grads[-1] += d_state
        for i in reversed(range(len(grads) - 1)):
            grads[i].addcmul_(decay[i + 1], grads[i + 1])
        torch.mul(decay[0], grads[0], out=d_state)
        d_inputs[span] = (grads @ b_steps[span, :, :, None])[..., 0]
        d_b[span] = (inputs[span, :, None] @ grads)[:, :, 0]

        if is_signed:  # the derivative of 2 exp(dt A) - 1 by dt A is itself + 1; a document begins without one
            decay.add_(1) if begins is None else decay.add_(~begins.T[span, :, None, None])
        d_log = decay.mul_(grads)  # the gradient of dt A: its derivative times the previous h times g
        d_log[1:] *= states[:-1]
        d_log[0] *= start
        d_steps[span] = torch.mul(d_log, a, out=states).sum(dim=-1)
        d_a += d_log.mul_(steps[span, :, :, None]).sum(dim=(0, 1))
    d_dt.addcmul_(d_x, x)  # so far d_x is the gradient of x dt
    d_x.mul_(dt)
    return outputs


def _make_gradients(*inputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Allocate the results of `scan_backward`: the gradients of six inputs."""
    d_x, d_dt, d_a, d_b, d_c, d_state = (part.new_empty(part.shape) for part in inputs)
    return d_x, d_dt, d_a, d_b, d_c, d_state


# A compiler sees each as one operation; traced, the graph would contain every position. In eager mode the functions are
# called directly, so that tools that count or check operations see those inside.
_opaque_scan = torch.library.custom_op("advanced_code_model::scan", scan, mutates_args=())
_opaque_scan.register_fake(lambda x, dt, a, b, c, state, begins, chunk, is_signed=False: _make_outputs(x, state, chunk))
_opaque_scan_backward = torch.library.custom_op("advanced_code_model::scan_backward", scan_backward, mutates_args=())
_opaque_scan_backward.register_fake(lambda dy, d_last, x, dt, a, b, c, *_: _make_gradients(x, dt, a, b, c, d_last))


class SelectiveScan(torch.autograd.Function):
    """The recurrence with a custom backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        a: Tensor,
        b: Tensor,
        c: Tensor,
        state: Tensor,
        begins: Tensor | None,
        chunk: int,
        is_signed: bool,
    ) -> tuple[Tensor, Tensor]:
        run = _opaque_scan if torch.compiler.is_compiling() else scan
        y, last, starts = run(x, dt, a, b, c, state, begins, chunk, is_signed)
        ctx.save_for_backward(x, dt, a, b, c, starts, begins)
        ctx.chunk, ctx.is_signed = chunk, is_signed
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        run: Any = _opaque_scan_backward if torch.compiler.is_compiling() else scan_backward
        return *run(*gradients, *ctx.saved_tensors, ctx.chunk, ctx.is_signed), None, None, None


class Mamba1(Block):
    """The Mamba-1 block: input projection, causal convolution, selective scan, gate, output projection."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.d_conv = spec.d_inner, spec.d_state, spec.d_conv
        self.rank, self.chunk_size = dt_rank(spec), spec.chunk_size
        self.negative_eigenvalues = spec.negative_eigenvalues
        self.in_proj = Linear(spec.d_model, 2 * spec.d_inner, bias=False)  # x, z
        self.conv_weight = nn.Parameter(torch.empty(spec.d_inner, spec.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(spec.d_inner))
        self.x_proj = Linear(spec.d_inner, self.rank + 2 * spec.d_state, bias=False)  # dt, B, C
        self.dt_proj = Linear(self.rank, spec.d_inner, bias=False)
        self.dt_bias = nn.Parameter(torch.empty(spec.d_inner))  # separate from dt_proj, since it is added in fp32
        self.A_log = nn.Parameter(torch.empty(spec.d_inner, spec.d_state))
        self.D = nn.Parameter(torch.empty(spec.d_inner))
        self.out_proj = Linear(spec.d_inner, spec.d_model, bias=False)

    def forward(self, x: Tensor, cache: MambaCache | None = None, documents: Tensor | None = None) -> BlockOutput:
        conv_in, gate = self.in_proj(x).chunk(2, dim=-1)
        hidden = F.silu(convolve(conv_in, self.conv_weight, self.conv_bias, cache, documents))
        dt, b, c = self.x_proj(hidden).split((self.rank, self.d_state, self.d_state), dim=-1)
        dt = self.dt_proj(dt)
        with torch.autocast(x.device.type, enabled=False):
            hidden, dt = hidden.float(), F.softplus(dt.float() + self.dt_bias)
            state = cache.state if cache else None
            a, b, c, is_signed = -self.A_log.exp(), b.float(), c.float(), self.negative_eigenvalues
            y, state = selective_scan(hidden, dt, a, b, c, self.chunk_size, state, documents, is_signed)
            y = (y + hidden * self.D) * F.silu(gate.float())
        if cache is not None:
            cache.state = state
            cache.offset += x.shape[1]
        return BlockOutput(self.out_proj(y.to(x.dtype)))

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> MambaCache:
        conv = like.new_zeros(batch_size, self.d_conv - 1, self.d_inner)
        return MambaCache(conv, like.new_zeros(batch_size, self.d_inner, self.d_state, dtype=torch.float32))

    def packed_projections(self) -> dict[str, tuple[int, ...]]:
        return {
            "in_proj.weight": (self.d_inner, self.d_inner),
            "x_proj.weight": (self.rank, self.d_state, self.d_state),
        }

    def init_weights(self, residual_scale: float) -> None:
        init_linear(self.in_proj)
        init_linear(self.x_proj)
        init_linear(self.out_proj, INIT_STD * residual_scale)
        bound = self.d_conv**-0.5
        nn.init.uniform_(self.conv_weight, -bound, bound)
        nn.init.uniform_(self.conv_bias, -bound, bound)
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        nn.init.ones_(self.D)
        with torch.no_grad():
            self.A_log.copy_(torch.arange(1, self.d_state + 1).log())
            self.dt_bias.copy_(draw_dt_bias(self.d_inner))

    def no_decay(self) -> set[str]:
        return {"A_log"}
