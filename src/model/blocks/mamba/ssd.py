"""State-space duality (Dao and Gu, 2024, section 6): Mamba-2's recurrence, computed chunk by chunk.

    h_t = exp(dt_t A) h_{t-1} + dt_t B_t x_t        (per head; A a negative scalar)
    y_t = C_t h_t

Within a chunk the recurrence is a masked matrix product; between chunks only the states are passed on. The result does
not depend on the chunk size; `tests/reference/ssd.py` is the step-by-step reference implementation. `signed_ssd` has
the transition 2 exp(dt_t A) - 1, from -1 to 1, in the place of exp(dt_t A) (Grazzi et al., 2024, arXiv 2411.12537).

B, T: batch, position; c, Q: chunks, chunk size; H, P: heads, head_dim; N: d_state.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from src.model.blocks.base import pad_to_chunks, should_use_cpu_kernel
from src.model.blocks.mamba.cpu_ssd import FACTORIZED_CHUNK, factorized_ssd

SMALLEST_TRANSITION = 1e-6
"""Least absolute value of a signed transition, about a rounding error of the state: the logarithm of 0 is infinite."""


def ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
    steps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `chunked_ssd` with the fastest kernel for the device and the range of the values."""
    if documents is None and should_use_cpu_kernel(x):
        result = factorized_ssd(x, dt, a, b, c, min(chunk, FACTORIZED_CHUNK), state, steps)
        if result is not None:
            return result
    return chunked_ssd(x, dt, a, b, c, chunk, state, documents, steps)


def signed_ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
    scan: Callable[..., tuple[Tensor, Tensor]] = ssd,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence with the transition 2 exp(dt A) - 1; arguments and results are those of `ssd`.

    With s_t the product of the signs up to t, s_t h_t has the absolute values as its transition and s_t x_t as its
    input, so `scan`, `ssd` or another kernel for the same, computes it.
    """
    transition = signed_transition(dt, a)
    is_negative = transition < 0
    sign = (1 - 2 * (is_negative.cumsum(1) % 2)).to(x.dtype)[..., None]  # (B, T, H, 1)
    size = torch.where(is_negative, -transition, transition)  # unlike abs, it has a gradient at 0
    steps = (size + (SMALLEST_TRANSITION - size.detach()).clamp(min=0)).log()
    y, state = scan(x * sign, dt, a, b, c, chunk, state, documents, steps)
    return y * sign, state * sign[:, -1, None]


def signed_transition(dt: Tensor, a: Tensor) -> Tensor:
    """Return 2 exp(dt A) - 1, from -1 to 1."""
    return 2 * (dt * a).exp() - 1


def chunked_ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
    steps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence above, without the D term, from `state` (zeros if None).

    x: (B, T, H, P); dt: (B, T, H), positive; a: (H,), negative; b, c: (B, T, N); state: (B, N, H, P); all fp32.
    documents: (B, T); the first document continues from `state`, the others start from zeros. steps: logarithm of the
    transition (B, T, H), dt A if None.
    Returns y (B, T, H, P) and the state after position T.
    """
    batch, length, heads, width = x.shape
    n_state = b.shape[-1]
    x, dt, b, c = pad_to_chunks(chunk, x, dt, b, c)  # dt = 0 decays nothing and adds nothing: the state is unchanged
    steps = dt * a if steps is None else pad_to_chunks(chunk, steps)[0]
    n_chunks = x.shape[1] // chunk

    inputs = (x * dt[..., None]).view(batch, n_chunks, chunk, heads, width)
    b, c = b.reshape(batch, n_chunks, chunk, n_state), c.reshape(batch, n_chunks, chunk, n_state)
    decay = decay_in_chunks(steps.view(batch, n_chunks, chunk, heads), documents)

    # Within a chunk: position i reads from j <= i with weight (C_i . B_j) exp(sum of dt A over j+1..i).
    weights = (c @ b.transpose(-1, -2))[:, :, None] * decay.between
    y = (weights @ inputs.transpose(2, 3)).transpose(2, 3)  # (B, c, Q, H, P)

    # Between chunks: the update of the state by each chunk, and the state at the start of each.
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
    """Decay factors within each chunk, from 0 to 1."""

    between: Tensor
    """(B, c, H, Q, Q): to position i from position j; 0 if j > i."""
    from_start: Tensor
    """(B, c, H, Q): from the start of the chunk to each position."""
    to_end: Tensor
    """(B, c, H, Q): from each position to the end of the chunk."""
    through: Tensor
    """(B, c, H, 1): through the whole chunk."""


def decay_in_chunks(steps: Tensor, documents: Tensor | None) -> Decay:
    """Compute decay factors from steps, dt A (B, c, Q, H); they are 0 between different documents (B, T).

    Padding after position T belongs to the last document.
    """
    batch, n_chunks, chunk, _ = steps.shape
    visible = torch.ones(chunk, chunk, dtype=torch.bool, device=steps.device).tril()
    summed = visible
    if documents is not None:
        padding = n_chunks * chunk - documents.shape[1]
        documents = torch.cat((documents, documents[:, -1:].expand(-1, padding)), dim=1) if padding else documents
        documents = documents.reshape(batch, n_chunks, 1, chunk)
        visible = visible & (documents[..., :, None] == documents[..., None, :])  # (B, c, 1, Q, Q)
        summed = visible[:, :, 0]
    if documents is None and not torch.are_deterministic_algorithms_enabled():
        sums = steps.transpose(2, 3).cumsum(-1)  # (B, c, H, Q), <= 0
    else:
        # Sums restart at each document, so that rounding errors of one do not affect the next. Unlike `cumsum`, a
        # product repeats bit for bit on CUDA.
        sums = (summed.to(steps.dtype) @ steps).transpose(2, 3)
    between = (sums[..., :, None] - sums[..., None, :]).masked_fill(~visible, -torch.inf)
    from_start, to_end, through = sums, sums[..., -1:] - sums, sums[..., -1:]
    if documents is not None:
        last = documents[..., -1:]
        # The document of the state at the start of a chunk.
        first = torch.cat((documents[:, :1, :, :1], last[:, :-1]), dim=1)
        from_start = from_start.masked_fill(documents != first, -torch.inf)
        to_end = to_end.masked_fill(documents != last, -torch.inf)
        through = through.masked_fill(first != last, -torch.inf)
    return Decay(between.exp(), from_start.exp(), to_end.exp(), through.exp())
