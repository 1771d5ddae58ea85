"""Mamba-2: a gated state-space layer computed by state-space duality (Dao and Gu, 2024).

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        (per head; A a negative scalar)
    y_t = C_t h_t + D x_t

Training and prefill cut the sequence into chunks: inside one, the recurrence is a masked matrix product; between
chunks, only the states are carried (section 6 of the paper). Decoding is the recurrence itself. The chunk size never
changes the result, and `tests/reference/ssd.py` holds the step-by-step twin. Where documents are numbered, each begins
with a state of zeros, wherever in a chunk that is.

On a CPU, moving memory costs as much as the products. There the decay between two positions is taken as a product of
two factors, one a position, so that all heads share one matrix a chunk and have none of their own (`FactorisedSSD`).
That is exact as long as the factors stay within what fp32 can hold; where they would not, the general form serves.

B, T: batch, position; c, Q: chunks, chunk size; H, P: heads, head_dim; N: d_state; K: d_conv; D_inner = H * P.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from src.config import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear, inverse_softplus, log_uniform, on_cpu
from src.model.blocks.linear import Linear
from src.model.blocks.norm import rms_norm

DT_RANGE = (1e-3, 1e-1)
DT_FLOOR = 1e-4
A_RANGE = (1.0, 16.0)


FACTORISED_CHUNK = 32
LARGEST_EXPONENT = 40.0
"""Factors are within exp(40) = 2e17 and its inverse, and what carries a state from one middle to the next is no smaller
than exp(-80): fp32 ends at exp(88), and loses digits below exp(-87)."""
ROW = 512
LONG = 4 * ROW
"""From here on the convolution's kernel is given rows: on a CPU its backward pass takes up to three times as long for a
position of longer ones."""


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Do what `chunked_ssd` does in the form that suits the device and the values."""
    if documents is None and on_cpu(x):
        result = factorised_ssd(x, dt, a, b, c, min(chunk, FACTORISED_CHUNK), state)
        if result is not None:
            return result
    return chunked_ssd(x, dt, a, b, c, chunk, state, documents)


def chunked_ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence above, without the D term, from `state` (zeros if None).

    x: (B, T, H, P); dt: (B, T, H), positive; a: (H,), negative; b, c: (B, T, N); state: (B, N, H, P); all fp32.
    documents: (B, T), whose first goes on from `state`; where the next begins, the state is zero.
    Returns y (B, T, H, P) and the state after position T.
    """
    batch, length, heads, width = x.shape
    n_state = b.shape[-1]
    if padding := -length % chunk:  # dt = 0 decays nothing and adds nothing, so padding leaves the state alone
        x, dt = F.pad(x, (0, 0, 0, 0, 0, padding)), F.pad(dt, (0, 0, 0, padding))
        b, c = F.pad(b, (0, 0, 0, padding)), F.pad(c, (0, 0, 0, padding))
        if documents is not None:
            documents = torch.cat((documents, documents[:, -1:].expand(-1, padding)), dim=1)
    n_chunks = (length + padding) // chunk

    inputs = (x * dt[..., None]).view(batch, n_chunks, chunk, heads, width)
    b, c = b.reshape(batch, n_chunks, chunk, n_state), c.reshape(batch, n_chunks, chunk, n_state)
    decay = decay_in_chunks((dt * a).view(batch, n_chunks, chunk, heads), documents)

    # Inside a chunk: position i takes from j <= i with weight (C_i . B_j) exp(sum of dt A over j+1..i).
    weights = (c @ b.transpose(-1, -2))[:, :, None] * decay.between
    y = (weights @ inputs.transpose(2, 3)).transpose(2, 3)  # (B, c, Q, H, P)

    # Between chunks: what each adds to the state, and the state that each starts from.
    added = b.transpose(-1, -2) @ (inputs * decay.to_end.transpose(2, 3)[..., None]).flatten(-2)  # (B, c, N, H P)
    added = added.view(batch, n_chunks, n_state, heads, width)
    through = decay.through[:, :, None]  # (B, c, 1, H, 1)
    state = x.new_zeros(batch, n_state, heads, width) if state is None else state
    starts = []
    for i in range(n_chunks):
        starts.append(state)
        state = state * through[:, i] + added[:, i]
    from_start = (c @ torch.stack(starts, dim=1).flatten(-2)).view_as(y)
    y = y + from_start * decay.from_start.transpose(2, 3)[..., None]
    return y.reshape(batch, n_chunks * chunk, heads, width)[:, :length], state


class Decay(NamedTuple):
    """What is left, of a state or of what was added to it, on the ways there are in a chunk: factors from 0 to 1."""

    between: Tensor
    """(B, c, H, Q, Q): on the way to position i from j; 0 where j > i."""
    from_start: Tensor
    """(B, c, H, Q): to each position."""
    to_end: Tensor
    """(B, c, H, Q): from each position."""
    through: Tensor
    """(B, c, H, 1)"""


def decay_in_chunks(steps: Tensor, documents: Tensor | None) -> Decay:
    """Sum steps, dt A (B, c, Q, H), along all ways within each chunk; none leads from one document to another."""
    batch, n_chunks, chunk, _ = steps.shape
    seen = torch.ones(chunk, chunk, dtype=torch.bool, device=steps.device).tril()
    if documents is None:
        sums = steps.transpose(2, 3).cumsum(-1)  # (B, c, H, Q), <= 0
    else:
        documents = documents.reshape(batch, n_chunks, 1, chunk)
        seen = seen & (documents[..., :, None] == documents[..., None, :])  # (B, c, 1, Q, Q)
        # Each document's from its own start: a sum over the chunk would carry the rounding of one into the next.
        sums = (seen[:, :, 0].to(steps.dtype) @ steps).transpose(2, 3)
    between = (sums[..., :, None] - sums[..., None, :]).masked_fill(~seen, -torch.inf)
    from_start, to_end, through = sums, sums[..., -1:] - sums, sums[..., -1:]
    if documents is not None:
        last = documents[..., -1:]
        first = torch.cat((documents[:, :1, :, :1], last[:, :-1]), dim=1)  # whose state it is that a chunk starts from
        from_start = from_start.masked_fill(documents != first, -torch.inf)
        to_end = to_end.masked_fill(documents != last, -torch.inf)
        through = through.masked_fill(first != last, -torch.inf)
    return Decay(between.exp(), from_start.exp(), to_end.exp(), through.exp())


def factorised_ssd(
    x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, chunk: int, state: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Do what `chunked_ssd` does for one document, unless factors would leave the range: then None.

    With L the sum of dt A from the start of a chunk, and m its value in the middle, exp(L_i - L_j) is exp(L_i - m)
    times exp(m - L_j): the first scales what comes out, the second what goes in.
    """
    batch, length, heads, width = x.shape
    if padding := -length % chunk:  # dt = 0 decays nothing and adds nothing, so padding leaves the state alone
        x, dt = F.pad(x, (0, 0, 0, 0, 0, padding)), F.pad(dt, (0, 0, 0, padding))
        b, c = F.pad(b, (0, 0, 0, padding)), F.pad(c, (0, 0, 0, padding))
    n_chunks = (length + padding) // chunk
    dt = dt.view(batch, n_chunks, chunk, heads)
    sums = (dt * a).cumsum(2)  # (B, c, Q, H), <= 0
    middle, last = sums[:, :, chunk // 2], sums[:, :, -1]  # (B, c, H)
    log_out = sums - middle[:, :, None]
    # `log_out` runs from below -middle to last - middle; what carries a state on has both, the first step included.
    if not bool(torch.maximum(-middle, middle - last).detach().max() <= LARGEST_EXPONENT):
        return None
    through = (last - middle).exp()
    y, end = FactorisedSSD.apply(
        x.reshape(batch, n_chunks, chunk, heads, width),
        (-log_out).exp() * dt,
        log_out,
        (last - middle)[:, :-1] + middle[:, 1:],
        b.reshape(batch * n_chunks, chunk, -1),
        c.reshape(batch * n_chunks, chunk, -1),
        None if state is None else state * middle[:, 0].exp()[:, None, :, None],
    )
    return y.reshape(batch, -1, heads, width)[:, :length], end * through[:, -1, None, :, None]


class FactorisedSSD(torch.autograd.Function):
    """y = exp(log_out) (tril(C B^T) (in_scale x) + C S), where S, the state that a chunk starts from, follows

        S_0 = start        S_{i+1} = exp(log_carry_i) (S_i + B_i^T (in_scale_i x_i))

    Of what is large only x, y and the states are kept; the rest is computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        in_scale: Tensor,
        log_out: Tensor,
        log_carry: Tensor,
        b: Tensor,
        c: Tensor,
        start: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Take x (B, c, Q, H, P); in_scale, log_out (B, c, Q, H); log_carry (B, c - 1, H); b, c (B c, Q, N).

        start: (B, N, H, P). Returns y like x, and what S would be after the last chunk without its carry.
        """
        batch, n_chunks, _, heads, width = x.shape
        inputs, products = _scale(x, in_scale), torch.bmm(c, b.mT).tril_()
        added = torch.bmm(b.mT, inputs).view(batch, n_chunks, -1, heads, width)
        states, carry = torch.empty_like(added), log_carry.exp()[:, :, None, :, None]
        states[:, 0] = 0 if start is None else start
        each = states.unbind(1)
        for here, more, factor, then in zip(each, added.unbind(1), carry.unbind(1), each[1:], strict=False):
            torch.add(here, more, out=then).mul_(factor)
        y = torch.bmm(c, _flat(states)).baddbmm_(products, inputs).view(x.shape).mul_(log_out.exp()[..., None])
        ctx.save_for_backward(x, in_scale, log_out, log_carry, b, c, states, y)
        ctx.has_start = start is not None
        return y, states[:, -1] + added[:, -1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy, d_end = gradients
        x, in_scale, log_out, log_carry, b, c, states, y = ctx.saved_tensors
        d_log_out = (dy * y).sum(-1)
        dy, inputs, products = _scale(dy, log_out.exp()), _scale(x, in_scale), torch.bmm(c, b.mT).tril_()
        d_products = torch.bmm(dy, inputs.mT).tril_()
        dc = torch.bmm(dy, _flat(states).mT).baddbmm_(d_products, b)

        d_states = torch.bmm(c.mT, dy).view_as(states)
        d_states[:, -1] += d_end
        d_added, carry = torch.empty_like(states), log_carry.exp()[:, :, None, :, None]
        d_added[:, -1] = d_end
        each = d_states.unbind(1)
        chunks = zip(each, each[1:], d_added.unbind(1), carry.unbind(1), strict=False)
        for d_here, d_then, d_more, factor in reversed(list(chunks)):
            d_here.add_(torch.mul(d_then, factor, out=d_more))
        d_log_carry = d_states[:, 1:].mul_(states[:, 1:]).sum((2, 4))  # all but the first have served

        db = torch.bmm(inputs, _flat(d_added).mT).baddbmm_(d_products.mT, c)
        dx = torch.bmm(products.mT, dy).baddbmm_(b, _flat(d_added)).view(x.shape)
        d_in_scale = (dx * x).sum(-1)
        d_start = d_states[:, 0] if ctx.has_start else None
        return dx.mul_(in_scale[..., None]), d_in_scale, d_log_out, d_log_carry, db, dc, d_start


def _scale(x: Tensor, factors: Tensor) -> Tensor:
    """Multiply each head of x (B, c, Q, H, P) by its factor (B, c, Q, H), into (B c, Q, H P)."""
    return (x * factors[..., None]).flatten(-2).flatten(0, 1)


def _flat(states: Tensor) -> Tensor:
    """View states (B, c, N, H, P) as (B c, N, H P)."""
    return states.flatten(-2).flatten(0, 1)


class MambaCache:
    """The last K - 1 inputs of the convolution, and the state of the recurrence; for Mamba-1 as well."""

    def __init__(self, conv: Tensor, state: Tensor) -> None:
        self.conv = conv  # (B, K - 1, C): C channels go through the convolution
        self.state = state  # (B, N, H, P) here and (B, D_inner, N) for Mamba-1, fp32
        self.offset = 0


class ConvState(Protocol):
    """What a convolution keeps while decoding: its last K - 1 inputs (B, K - 1, C)."""

    conv: Tensor


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, cache: ConvState | None, documents: Tensor | None = None
) -> Tensor:
    """Convolve each channel of x (B, T, C) with its own causal kernel: weight (C, K), bias (C,) or zeros.

    documents: (B, T); what stands before a document counts as zeros.
    """
    before = weight.shape[1] - 1
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    if cache is None and documents is None and x.shape[1] >= LONG and torch.is_grad_enabled() and on_cpu(x):
        return _convolve_rows(x, weight, bias)
    if cache is None:
        x = F.pad(x, (0, 0, before, 0))
    else:
        x = torch.cat((cache.conv.to(x.dtype), x), dim=1)
        cache.conv = x[:, x.shape[1] - before :]
        if x.shape[1] == weight.shape[1]:  # one position: a product and a sum cost less than a convolution's setting up
            return ((x * weight.T).sum(dim=1, keepdim=True) + bias).to(x.dtype)
        cache.conv = cache.conv.clone()  # not to keep all of a prompt
    if documents is not None or torch.compiler.is_compiling():
        return _convolve_taps(x, weight, bias, documents)
    return _convolve_image(x, weight, bias)


def _convolve_rows(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve x (B, T, C), a text from its start, row by row, each behind the last inputs of the one before."""
    length, before = x.shape[1], weight.shape[1] - 1
    if padding := -length % ROW:
        x = F.pad(x, (0, 0, 0, padding))
    rows = x.unflatten(1, (-1, ROW))
    starts = F.pad(rows[:, :-1, ROW - before :], (0, 0, 0, 0, 1, 0))
    y = _convolve_image(torch.cat((starts, rows), dim=2).flatten(0, 1), weight, bias)
    return y.view(len(x), -1, x.shape[2])[:, :length]


def _convolve_image(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Convolve x (B, K - 1 + T, C), with what stands before, as an image of one row.

    Its channels stand innermost, which is how they lie: nothing is moved.
    """
    image = x.transpose(1, 2).unsqueeze(2)
    return F.conv2d(image, weight[:, None, None], bias, groups=weight.shape[0]).squeeze(2).transpose(1, 2)


def _convolve_taps(x: Tensor, weight: Tensor, bias: Tensor, documents: Tensor | None) -> Tensor:
    """Convolve x (B, K - 1 + T, C) tap by tap, which a compiler makes one loop of, with what stands before and after.

    With documents each tap is masked by itself, since others may still be of the document. The product comes before
    the mask, so that of x nothing is kept for the backward pass but x itself. Of the weight a copy is made in which the
    channels of a tap lie side by side, as those of x do: the loop goes one by one otherwise.
    """
    before = weight.shape[1] - 1
    length = x.shape[1] - before
    taps = torch.stack(weight.unbind(1))
    y = bias + x[:, before:] * taps[before]
    for lag in range(1, before + 1):
        tap = x[:, before - lag : before - lag + length] * taps[before - lag]
        if documents is not None:
            tap = tap.masked_fill((documents != F.pad(documents, (lag, 0))[:, :length])[..., None], 0)
        y = y + tap
    return y.to(x.dtype)


def draw_dt_bias(count: int) -> Tensor:
    """Draw what softplus turns into a dt that is log-uniform over `DT_RANGE`."""
    return inverse_softplus(log_uniform(count, *DT_RANGE).clamp(min=DT_FLOOR))


class Mamba(Block):
    """The Mamba-2 block: one input projection, causal convolution, state-space layer, gated norm, output projection."""

    memory_budget = 0.5  # between its products lie a dozen tensors, which cost no more to compute again than to read

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.d_conv = spec.d_inner, spec.d_state, spec.d_conv
        self.n_heads, self.head_dim, self.chunk_size = spec.n_ssm_heads, spec.head_dim, spec.chunk_size
        channels = spec.d_inner + 2 * spec.d_state
        self.in_proj = Linear(spec.d_model, spec.d_inner + channels + self.n_heads, bias=False)  # z, x, B, C, dt
        self.conv_weight = nn.Parameter(torch.empty(channels, spec.d_conv))
        self.conv_bias = nn.Parameter(torch.empty(channels))
        self.A_log = nn.Parameter(torch.empty(self.n_heads))
        self.D = nn.Parameter(torch.empty(self.n_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.n_heads))
        self.norm_weight = nn.Parameter(torch.empty(spec.d_inner))
        self.out_proj = Linear(spec.d_inner, spec.d_model, bias=False)

    def forward(self, x: Tensor, cache: MambaCache | None = None, documents: Tensor | None = None) -> BlockOutput:
        channels = self.d_inner + 2 * self.d_state
        gate, conv_in, dt = self.in_proj(x).split((self.d_inner, channels, self.n_heads), dim=-1)
        hidden = F.silu(convolve(conv_in, self.conv_weight, self.conv_bias, cache, documents))
        with torch.autocast(x.device.type, enabled=False):
            y = self._state_space(hidden.float(), dt.float(), cache, documents)
            y = y * F.silu(gate.float())  # the norm comes after the gate
            y = rms_norm(y, self.norm_weight)
        if cache is not None:
            cache.offset += x.shape[1]
        return BlockOutput(self.out_proj(y.to(x.dtype)))

    def _state_space(self, hidden: Tensor, dt: Tensor, cache: MambaCache | None, documents: Tensor | None) -> Tensor:
        """Map the convolved x, B, C (B, T, C) and raw dt (B, T, H) to y (B, T, D_inner), in fp32."""
        x, b, c = hidden.split((self.d_inner, self.d_state, self.d_state), dim=-1)
        x = x.unflatten(-1, (self.n_heads, self.head_dim))
        dt = F.softplus(dt + self.dt_bias)
        a = -self.A_log.exp()
        if cache is not None and x.shape[1] == 1:  # (B, 1, H, 1) and (B, N, 1, 1) against the state (B, N, H, P)
            decay = (dt * a).exp().unsqueeze(-1)
            cache.state = torch.addcmul(cache.state * decay, b.mT.unsqueeze(-1), x * dt.unsqueeze(-1))
            y = (c @ cache.state.flatten(2)).view_as(x)
        else:
            state = cache.state if cache else None
            y, state = ssd(x, dt, a, b, c, self.chunk_size, state, documents)
            if cache is not None:
                cache.state = state
        return torch.addcmul(y, x, self.D[:, None]).flatten(-2)

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> MambaCache:
        conv = like.new_zeros(batch_size, self.d_conv - 1, self.conv_weight.shape[0])
        state = like.new_zeros(batch_size, self.d_state, self.n_heads, self.head_dim, dtype=torch.float32)
        return MambaCache(conv, state)

    def fused(self) -> dict[str, tuple[int, ...]]:
        return {"in_proj.weight": (self.d_inner, self.d_inner, self.d_state, self.d_state, self.n_heads)}

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

    def no_decay(self) -> set[str]:
        return {"A_log", "D", "dt_bias", "conv_bias", "norm_weight"}
