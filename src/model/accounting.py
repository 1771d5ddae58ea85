"""What a model costs, in closed form and without torch: parameters, FLOPs, and the state kept while decoding.

A multiply and an add are two FLOPs; element-wise work is not counted. Attention is charged what causality needs
(half of the full square), the state-space layer what its chunked form executes. Training is charged three times the
forward pass. Every formula is checked against the built model in `tests/model/test_accounting.py`.

B T D: batch, position, d_model; F: d_ff; E, k: experts, experts a token; N: d_state; P: head_dim; H: heads; K: d_conv;
Q: chunk; V: vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

from src.config import ModelSpec

BYTES_PER_FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """The cost of one block, its norm included."""

    params: int
    active_params: int
    """Parameters that work for one token."""
    flops: float
    """Forward, per token, averaged over a sequence of the context length."""
    state_bytes: int
    """Kept per sequence while decoding at the context length, in fp32."""


def norm_params(spec: ModelSpec) -> int:
    return spec.d_model * (2 if spec.norm == "layernorm" and spec.bias else 1)


def _mean_keys(context_len: int, window: int) -> float:
    """Mean over positions t = 1..context_len of min(t, window): the keys that a causal query sees."""
    full = min(context_len, window)
    return (full * (full + 1) / 2 + (context_len - full) * window) / context_len


def _attention(spec: ModelSpec, context_len: int, window: int) -> Cost:
    width = spec.d_model
    matrices = 4 * width * width
    params = matrices + (4 * width if spec.bias else 0) + norm_params(spec)
    flops = 2 * matrices + 4 * width * _mean_keys(context_len, window)
    return Cost(params, params, flops, 2 * width * min(context_len, window) * BYTES_PER_FLOAT)


def _full_attention(spec: ModelSpec, context_len: int) -> Cost:
    return _attention(spec, context_len, context_len)


def _sliding_attention(spec: ModelSpec, context_len: int) -> Cost:
    return _attention(spec, context_len, spec.window)


def _mlp(spec: ModelSpec, context_len: int) -> Cost:
    inputs = 2 if spec.mlp == "swiglu" else 1
    matrices = (inputs + 1) * spec.d_model * spec.d_ff
    params = matrices + (inputs * spec.d_ff + spec.d_model if spec.bias else 0) + norm_params(spec)
    return Cost(params, params, 2 * matrices, 0)


def _moe(spec: ModelSpec, context_len: int) -> Cost:
    expert = (3 if spec.mlp == "swiglu" else 2) * spec.d_model * spec.expert_d_ff
    router = spec.d_model * spec.n_experts
    active = spec.top_k * expert + router
    norm = norm_params(spec)
    return Cost(spec.n_experts * expert + router + norm, active + norm, 2 * active, 0)


def _mamba(spec: ModelSpec, context_len: int) -> Cost:
    inner, state, heads, chunk = spec.d_inner, spec.d_state, spec.n_ssm_heads, spec.chunk_size
    conv_channels = inner + 2 * state
    matrices = spec.d_model * (2 * inner + 2 * state + heads) + inner * spec.d_model
    params = matrices + conv_channels * (spec.d_conv + 1) + 3 * heads + inner + norm_params(spec)
    dual_form = 2 * chunk * state + heads * (2 * chunk * spec.head_dim + 4 * state * spec.head_dim)
    flops = 2 * matrices + 2 * spec.d_conv * conv_channels + dual_form
    state_bytes = (conv_channels * (spec.d_conv - 1) + inner * state) * BYTES_PER_FLOAT
    return Cost(params, params, flops, state_bytes)


BLOCK_COSTS: dict[str, Callable[[ModelSpec, int], Cost]] = {
    "attention": _full_attention,
    "sliding_attention": _sliding_attention,
    "mlp": _mlp,
    "moe": _moe,
    "mamba": _mamba,
}


@dataclass(frozen=True)
class ModelCost:
    """The cost of a whole model."""

    total_params: int
    active_params: int
    embedding_params: int
    """Token embedding, positions and head."""
    non_embedding_params: int
    active_non_embedding_params: int
    forward_flops_per_token: float
    state_bytes: int

    @property
    def train_flops_per_token(self) -> float:
        return 3 * self.forward_flops_per_token


def model_cost(spec: ModelSpec, context_len: int) -> ModelCost:
    """Add up the blocks, the final norm, the embeddings and the head, at a context length in tokens."""
    of_kind = {kind: BLOCK_COSTS[kind](spec, context_len) for kind in set(spec.blocks)}
    blocks = [of_kind[kind] for kind in spec.blocks]
    table = spec.vocab_size * spec.d_model
    embedding = 2 * table + spec.learned_positions * spec.d_model
    non_embedding = sum(block.params for block in blocks) + norm_params(spec)
    active = sum(block.active_params for block in blocks) + norm_params(spec)
    return ModelCost(
        total_params=embedding + non_embedding,
        active_params=embedding + active,
        embedding_params=embedding,
        non_embedding_params=non_embedding,
        active_non_embedding_params=active,
        forward_flops_per_token=sum(block.flops for block in blocks) + 2 * table,
        state_bytes=sum(block.state_bytes for block in blocks),
    )
