"""Gated DeltaNet: a linear recurrence that overwrites the value stored under a key (Yang, Kautz and Hatamizadeh, 2024).

    S_t = a_t (S_{t-1} - b_t k_t (k_t^T S_{t-1})) + b_t k_t v_t^T        (per head; a_t, b_t from 0 to 1, |k_t| = 1)
    o_t = S_t^T q_t / sqrt(N)

Mamba-2 only adds to its state and decays all of it; the delta rule first removes the value stored under the key that it
writes. Within a chunk, the write of each position depends on the writes before it: a triangular system (section 3.3 of
the paper), solved for all chunks at once; between chunks only the states are passed on. Decoding is the recurrence
itself. The result does not depend on the chunk size; `tests/reference/delta_rule.py` is the reference implementation.
With document ids, each document starts from a state of zeros. With `negative_eigenvalues`, b_t is from 0 to 2: a write
multiplies what is stored under its key by 1 - b_t, from -1 to 1, which state tracking needs (Grazzi et al., 2024, arXiv
2411.12537).

The whole architecture is in this folder and `conf/architecture/gated_deltanet.yaml`.

B, T: batch, position; c, Q: chunks, chunk size; H: heads; N, P: head widths of keys and values; K: d_conv.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.config.schema import ModelSpec
from src.model.blocks.base import INIT_STD, Block, BlockOutput, init_linear, pad_to_chunks
from src.model.blocks.convolution import convolve
from src.model.blocks.fla_kernels import fla_delta_rule
from src.model.blocks.gated_deltanet.cost import VALUE_PER_KEY, count_heads
from src.model.blocks.linear import Linear
from src.model.blocks.mamba.module import A_RANGE, MambaCache, draw_dt_bias
from src.model.blocks.mamba.ssd import decay_in_chunks
from src.model.blocks.norm import rms_norm

KEY_EPS = 1e-6


def chunked_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Run the recurrence above, with q unscaled, from `state` (zeros if None).

    q, k: (B, T, H, N), k of length 1; v: (B, T, H, P); log_decay <= 0 and beta from 0 to 2: (B, T, H);
    state: (B, H, N, P); all fp32. documents: (B, T); the first document continues from `state`.
    Returns o (B, T, H, P) and the state after position T.
    """
    batch, length, heads, n_key = q.shape
    # beta = 0 writes nothing and log_decay = 0 decays nothing: padding does not change the state
    q, k, v, log_decay, beta = pad_to_chunks(chunk, q, k, v, log_decay, beta)
    n_chunks = q.shape[1] // chunk
    q, k, v = (part.view(batch, n_chunks, chunk, heads, -1).transpose(2, 3) for part in (q, k, v))
    beta = beta.view(batch, n_chunks, chunk, heads, 1).transpose(2, 3)  # (B, c, H, Q, 1)
    decay = decay_in_chunks(log_decay.view(batch, n_chunks, chunk, heads), documents)

    # A position writes its value minus what is read under its key: from earlier positions in the chunk (the system),
    # and from the state at the start of the chunk (`reads`).
    written = beta * k
    system = (written @ k.mT) * decay.between
    solved = torch.linalg.solve_triangular(
        system, torch.cat((beta * v, written * decay.from_start[..., None]), dim=-1), upper=False, unitriangular=True
    )
    values, reads = solved.split((v.shape[-1], n_key), dim=-1)
    kept = (k * decay.to_end[..., None]).mT
    through = decay.through[..., None]  # (B, c, H, 1, 1)
    state = q.new_zeros(batch, heads, n_key, v.shape[-1]) if state is None else state
    starts: list[Tensor] = []
    writes: list[Tensor] = []
    for i in range(n_chunks):
        starts.append(state)
        writes.append(values[:, i] - reads[:, i] @ state)
        state = state * through[:, i] + kept[:, i] @ writes[-1]
    from_start = (q * decay.from_start[..., None]) @ torch.stack(starts, dim=1)
    o = from_start + ((q @ k.mT) * decay.between) @ torch.stack(writes, dim=1)
    return o.transpose(2, 3).reshape(batch, n_chunks * chunk, heads, -1)[:, :length], state


class GatedDeltaNet(Block):
    """The block: projections, causal convolution of q, k and v, delta rule, gated norm, output projection."""

    has_fla_kernel = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.n_heads, self.head_dim, self.chunk_size = count_heads(spec), spec.head_dim, spec.chunk_size
        self.d_key, self.d_value = self.n_heads * spec.head_dim, VALUE_PER_KEY * self.n_heads * spec.head_dim
        self.d_conv, self.max_beta = spec.d_conv, 2.0 if spec.negative_eigenvalues else 1.0
        self.qk = Linear(spec.d_model, 2 * self.d_key, bias=False)
        self.value_gate = Linear(spec.d_model, 2 * self.d_value, bias=False)
        self.dt_beta = Linear(spec.d_model, 2 * self.n_heads, bias=False)
        self.conv_weight = nn.Parameter(torch.empty(2 * self.d_key + self.d_value, spec.d_conv))
        self.A_log = nn.Parameter(torch.empty(self.n_heads))
        self.dt_bias = nn.Parameter(torch.empty(self.n_heads))
        self.norm_weight = nn.Parameter(torch.empty(VALUE_PER_KEY * spec.head_dim))
        self.out_proj = Linear(self.d_value, spec.d_model, bias=False)

    def forward(self, x: Tensor, cache: MambaCache | None = None, documents: Tensor | None = None) -> BlockOutput:
        projected = torch.cat((self.qk(x), self.value_gate(x), self.dt_beta(x)), dim=-1)
        o = self.recompute(self._mix, projected, cache, documents)  # two dozen results as large as its input
        if cache is not None:
            cache.offset += x.shape[1]
        return BlockOutput(self.out_proj(o.to(x.dtype)))

    def _mix(self, projected: Tensor, cache: MambaCache | None, documents: Tensor | None) -> Tensor:
        """Map q, k, v, gate, dt and beta (B, T, ...) to the gated, normalized output (B, T, H P), in fp32."""
        widths = (2 * self.d_key + self.d_value, self.d_value, self.n_heads, self.n_heads)
        conv_in, gate, dt, beta = projected.split(widths, dim=-1)
        hidden = convolve(conv_in, self.conv_weight, None, cache, documents)
        with torch.autocast(projected.device.type, enabled=False):
            beta = beta.float().sigmoid() if self.max_beta == 1 else self.max_beta * beta.float().sigmoid()
            o = self._run_recurrence(F.silu(hidden.float()), dt.float(), beta, cache, documents)
            o = rms_norm(o, self.norm_weight).flatten(-2)  # its eps is fixed, as in OLMo's and fla's
            return o * F.silu(gate.float())  # the norm of each head comes before the gate

    def _run_recurrence(
        self, hidden: Tensor, dt: Tensor, beta: Tensor, cache: MambaCache | None, documents: Tensor | None
    ) -> Tensor:
        """Map the convolved q, k, v (B, T, C), raw dt and beta (B, T, H) to o (B, T, H, P), in fp32."""
        q, k, v = hidden.split((self.d_key, self.d_key, self.d_value), dim=-1)
        q, k, v = (part.unflatten(-1, (self.n_heads, -1)) for part in (q, k, v))
        q, k = (part * (part.square().sum(-1, keepdim=True) + KEY_EPS).rsqrt() for part in (q, k))
        q = q * self.head_dim**-0.5
        log_decay = -self.A_log.exp() * F.softplus(dt + self.dt_bias)
        run = fla_delta_rule if self.uses_fla else chunked_delta_rule
        if cache is None:
            return run(q, k, v, log_decay, beta, self.chunk_size, documents=documents)[0]
        if q.shape[1] == 1:
            q, k, v = (part[:, 0, :, None] for part in (q, k, v))  # (B, H, 1, N or P)
            state = cache.state * log_decay.exp().mT[..., None]
            state = state + k.mT @ ((v - k @ state) * beta.mT[..., None])
            o = (q @ state).transpose(1, 2)
        else:
            o, state = run(q, k, v, log_decay, beta, self.chunk_size, cache.state)
        cache.state = state
        return o

    def make_cache(self, batch_size: int, max_len: int, like: Tensor) -> MambaCache:
        conv = like.new_zeros(batch_size, self.d_conv - 1, self.conv_weight.shape[0])
        state = like.new_zeros(
            batch_size, self.n_heads, self.head_dim, VALUE_PER_KEY * self.head_dim, dtype=torch.float32
        )
        return MambaCache(conv, state)

    def packed_projections(self) -> dict[str, tuple[int, ...]]:
        parts = {"qk": self.d_key, "value_gate": self.d_value, "dt_beta": self.n_heads}
        return {f"{name}.weight": (rows, rows) for name, rows in parts.items()}

    def init_weights(self, residual_scale: float) -> None:
        for layer in (self.qk, self.value_gate, self.dt_beta):
            init_linear(layer)
        init_linear(self.out_proj, INIT_STD * residual_scale)
        nn.init.uniform_(self.conv_weight, -(self.d_conv**-0.5), self.d_conv**-0.5)
        nn.init.ones_(self.norm_weight)
        with torch.no_grad():
            self.A_log.uniform_(*A_RANGE).log_()
            self.dt_bias.copy_(draw_dt_bias(self.n_heads))

    def no_decay(self) -> set[str]:
        return {"A_log", "dt_bias", "norm_weight"}
