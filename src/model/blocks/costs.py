"""What each kind of block costs, in closed form and without torch.

A multiply and an add are two FLOPs; element-wise work is not counted, but for Mamba-1's scan, which is hardly anything
else. FLOPs are told twice: as *needed*, when nothing is computed that the causal mask throws away, and as *executed* by
our code, whole squares and padding included (attention as torch's MATH backend does it). Everything is per token,
averaged over a sequence of the context length, and includes the norm before the block. `tests/contract` holds the
formulas against the models that are built.

T D: context length, d_model; F: d_ff; E, k: experts, experts a token; N: d_state; P: head_dim; H: heads; K: d_conv;
Q: chunk; W: window; R: rank of dt.
"""

from dataclasses import dataclass

from src.config import ModelSpec

BYTES_PER_FLOAT = 4
MAMBA1_SCAN_FLOPS = 9
"""Per token, channel and state, as Mamba's authors count their kernel: two are the product with C, seven are the decay,
the input and the recurrence, element by element. Left out, they would make Mamba-1 look cheaper than it is."""
MAMBA1_WIDTH_PER_RANK = 16
"""dt comes through a bottleneck of R = d_model / 16 (Gu and Dao, 2023, section 3.6)."""


@dataclass(frozen=True)
class Cost:
    """The cost of one block, its norm included."""

    params: int
    active_params: int
    """Parameters that work for one token."""
    flops: float
    """Forward, per token, as needed."""
    executed_flops: float
    """Forward, per token, as executed."""
    state_bytes: int
    """Kept per sequence while decoding at the context length, in fp32."""


def norm_params(spec: ModelSpec) -> int:
    return spec.d_model * (2 if spec.norm == "layernorm" and spec.bias else 1)


def mamba1_rank(spec: ModelSpec) -> int:
    return -(-spec.d_model // MAMBA1_WIDTH_PER_RANK)


def mean_keys(context_len: int, window: int) -> float:
    """Mean over positions t = 1..context_len of min(t, window): the keys that a causal query sees."""
    full = min(context_len, window)
    return (full * (full + 1) / 2 + (context_len - full) * window) / context_len


def mean_keys_in_chunk(context_len: int, chunk: int) -> float:
    """Mean over positions of the keys from the start of a position's own chunk up to itself."""
    chunks, rest = divmod(context_len, chunk)
    return (chunks * chunk * (chunk + 1) + rest * (rest + 1)) / 2 / context_len


def padding(context_len: int, chunk: int) -> float:
    """Positions computed per position that is there, where a sequence is filled up to whole chunks."""
    return -(-context_len // chunk) * chunk / context_len


def _attention(spec: ModelSpec, context_len: int, window: int, keys: float) -> Cost:
    width = spec.d_model
    matrices = 4 * width * width
    params = matrices + (4 * width if spec.bias else 0) + norm_params(spec)
    flops = 2 * matrices + 4 * width * mean_keys(context_len, window)
    executed = 2 * matrices + 4 * width * keys
    return Cost(params, params, flops, executed, 2 * width * min(context_len, window) * BYTES_PER_FLOAT)


def attention(spec: ModelSpec, context_len: int) -> Cost:
    return _attention(spec, context_len, context_len, context_len)


def sliding_attention(spec: ModelSpec, context_len: int) -> Cost:
    """As executed: the first window sees itself, every later one (the last is padded) itself and the one before."""
    window, blocks = spec.window, -(-context_len // spec.window)
    keys = context_len if blocks == 1 else window * window * (1 + 2 * (blocks - 1)) / context_len
    return _attention(spec, context_len, window, keys)


def mlp(spec: ModelSpec, context_len: int) -> Cost:
    inputs = 2 if spec.mlp == "swiglu" else 1
    matrices = (inputs + 1) * spec.d_model * spec.d_ff
    params = matrices + (inputs * spec.d_ff + spec.d_model if spec.bias else 0) + norm_params(spec)
    return Cost(params, params, 2 * matrices, 2 * matrices, 0)


def moe(spec: ModelSpec, context_len: int) -> Cost:
    expert = (3 if spec.mlp == "swiglu" else 2) * spec.d_model * spec.expert_d_ff
    router = spec.d_model * spec.n_experts
    active = spec.top_k * expert + router
    norm = norm_params(spec)
    return Cost(spec.n_experts * expert + router + norm, active + norm, 2 * active, 2 * active, 0)


def mamba(spec: ModelSpec, context_len: int) -> Cost:
    """Mamba-2: inside a chunk a masked product of C B^T (one for all heads) with x, between chunks the states."""
    inner, state, heads, chunk = spec.d_inner, spec.d_state, spec.n_ssm_heads, spec.chunk_size
    conv_channels = inner + 2 * state
    matrices = spec.d_model * (2 * inner + 2 * state + heads) + inner * spec.d_model
    params = matrices + conv_channels * (spec.d_conv + 1) + 3 * heads + inner + norm_params(spec)
    outside = 2 * matrices + 2 * spec.d_conv * conv_channels
    per_key, states = 2 * (state + inner), 4 * state * inner
    flops = outside + per_key * mean_keys_in_chunk(context_len, chunk) + states
    executed = outside + (per_key * chunk + states) * padding(context_len, chunk)
    state_bytes = (conv_channels * (spec.d_conv - 1) + inner * state) * BYTES_PER_FLOAT
    return Cost(params, params, flops, executed, state_bytes)


def mamba1(spec: ModelSpec, context_len: int) -> Cost:
    """Mamba-1: every position is scanned, and none that is padding, so needed and executed are the same."""
    width, inner, state, rank = spec.d_model, spec.d_inner, spec.d_state, mamba1_rank(spec)
    matrices = 3 * inner * width + inner * (rank + 2 * state) + inner * rank
    params = matrices + inner * (spec.d_conv + 1) + inner + inner * (state + 1) + norm_params(spec)
    flops = 2 * matrices + 2 * spec.d_conv * inner + MAMBA1_SCAN_FLOPS * inner * state
    state_bytes = inner * (spec.d_conv - 1 + state) * BYTES_PER_FLOAT
    return Cost(params, params, flops, flops, state_bytes)
