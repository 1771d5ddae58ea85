"""The memory of training and inference in closed form, without torch.

The backward pass of a step is followed block by block: saved activations shrink while gradients grow, and the moment
with the most live memory is the peak. `tests/profiling/peaks.py` measures the same with the allocator; the memory of
the process itself (interpreter, libraries, allocator reserve) comes on top.

Weights, gradients and both moments of the optimizer are fp32, unless `training.memory` says otherwise. For bf16 and
fp16 the estimate is an upper bound: activations as in fp32, and a copy of the fp32 weights in two bytes each.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

from src.config.schema import BF16_WEIGHTS, INT8_MOMENTS, ModelSpec
from src.model.blocks import kind_of
from src.model.blocks.kind import BYTES_PER_FLOAT, Activations, norm_activations
from src.model.cost.model_cost import DECODER_LAYERS, model_cost

LOGITS_AT_ONCE = 1 << 22
"""Logits that the loss holds at a time: 16 MB in fp32, little memory, yet large enough for fast products."""
MIN_LOSS_CHUNK = 64
"""Tokens: the minimum whose logits are computed together."""
BYTES_PER_HALF = 2
BYTES_PER_8BIT_MOMENT = 1 + BYTES_PER_FLOAT / 256
"""A code, and its part of the scale of 256 (`src/training/lean_adamw.py`)."""


def loss_chunk(vocab_size: int) -> int:
    """Return the number of tokens whose logits the loss computes at a time."""
    return max(MIN_LOSS_CHUNK, LOGITS_AT_ONCE // vocab_size)


@dataclass(frozen=True)
class Memory:
    """Live bytes at the peak."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    state: int = 0
    """Keys, values and recurrent states of all sequences in decoding."""
    activations: int = 0
    """Saved for the backward pass."""
    workspace: int = 0
    """Temporary tensors at the peak."""

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        return asdict(self)


class InferenceMemory(NamedTuple):
    """The peaks of the two phases of text generation."""

    prefill: Memory
    decode: Memory


class CheckpointBytes(NamedTuple):
    """Size on disk: `best` holds the weights, `last` also the state of the optimizer."""

    best: int
    last: int


class _Moment(NamedTuple):
    """Live floats besides weights and optimizer."""

    gradients: float
    activations: float
    workspace: float


def training_memory(
    spec: ModelSpec,
    *,
    seq_len: int,
    micro_batch_size: int,
    accumulate: bool,
    activation_checkpointing: bool = False,
    precision: str = "fp32",
    document_masking: bool = False,
    dropout: float = 0.0,
    memory: str = "full",
    math_attention: bool = False,
) -> Memory:
    """Estimate the peak of a training step, from the second step on, when the optimizer has its state.

    accumulate: whether gradients of several micro batches are summed, so that they exist all the time. memory:
    `training.memory`. math_attention: whether attention keeps its weights, as torch's MATH kernel does.
    """
    found = _block_activations(spec, seq_len, math_attention)
    forms = document_masking, dropout > 0, memory in BF16_WEIGHTS
    moments = _list_moments(spec, found, seq_len, micro_batch_size, accumulate, activation_checkpointing, *forms)
    worst = max(moments, key=sum)
    params, in_bf16 = model_cost(spec, seq_len).total_params, _count_bf16_weights(spec, memory)
    copied = BYTES_PER_HALF if precision != "fp32" else 0
    return Memory(
        weights=in_bf16 * BYTES_PER_HALF + (params - in_bf16) * (BYTES_PER_FLOAT + copied),
        gradients=round(worst.gradients * BYTES_PER_FLOAT),
        optimizer=_moment_bytes(params, memory),
        activations=round(worst.activations * BYTES_PER_FLOAT),
        workspace=round(worst.workspace * BYTES_PER_FLOAT),
    )


def _count_bf16_weights(spec: ModelSpec, memory: str) -> int:
    """Return the number of weights in bf16: those of the blocks, whose few vectors are counted as well."""
    return sum(kind_of(kind).cost(spec, 1).params for kind in spec.blocks) if memory in BF16_WEIGHTS else 0


def _moment_bytes(params: int, memory: str) -> int:
    return round(2 * params * (BYTES_PER_8BIT_MOMENT if memory in INT8_MOMENTS else BYTES_PER_FLOAT))


def _block_activations(spec: ModelSpec, seq_len: int, math_attention: bool) -> list[Activations]:
    """Return the floats per token of every block."""
    found = [kind_of(kind).activations(spec, seq_len) for kind in spec.blocks]
    return [block.with_math_attention() for block in found] if math_attention else found


def _list_moments(
    spec: ModelSpec,
    found: list[Activations],
    seq_len: int,
    micro_batch_size: int,
    accumulate: bool,
    activation_checkpointing: bool,
    document_masking: bool,
    drops: bool,
    has_bf16_weights: bool,
) -> list[_Moment]:
    """List the live floats at the loss, at the final norm, in each block from the last to the first, and at the end."""
    tokens = seq_len * micro_batch_size
    stream = tokens * spec.d_model
    head = spec.vocab_size * spec.d_model
    costs = [kind_of(kind).cost(spec, seq_len) for kind in spec.blocks]
    # Floats that the gradient of a weight of a block takes.
    part = BYTES_PER_HALF / BYTES_PER_FLOAT if has_bf16_weights else 1.0
    params = model_cost(spec, seq_len).total_params - (1 - part) * sum(cost.params for cost in costs)
    whole = [tokens * (block.kept + (block.masks if document_masking else 0)) for block in found]
    kept = [float(stream)] * len(whole) if activation_checkpointing else whole
    if drops:  # the masks on the output of each block and on the embedding
        kept, whole = ([floats + stream for floats in each] for each in (kept, whole))
        kept[0], whole[0] = kept[0] + stream, whole[0] + stream
    final = tokens * norm_activations(spec)
    if spec.has_decoder:  # for each layer what its norm keeps, and the input of its GELU
        final += DECODER_LAYERS * tokens * (norm_activations(spec) + spec.d_model)

    rows = min(tokens, loss_chunk(spec.vocab_size))
    accumulated = params if accumulate else 0
    at_loss = _Moment(accumulated + head, sum(kept) + final, stream + rows * (spec.vocab_size + spec.d_model))
    through_norm = (4 if spec.norm == "rmsnorm" else 2) * stream
    moments = [at_loss, _Moment(accumulated or head, sum(kept) + final, through_norm)]
    done = float(head)
    for i in reversed(range(len(whole))):
        own = part * costs[i].params
        done += own
        gradients = accumulated + own if accumulate else done
        # The step holds the last hidden states, autograd the gradient of the residual stream.
        workspace = tokens * found[i].backward + 2 * stream
        if has_bf16_weights:  # the largest matrix, up to three quarters of a block, and its gradient in fp32
            workspace += 1.5 * costs[i].active_params
        moments.append(_Moment(gradients, sum(kept[:i]) + whole[i], workspace))
    # The embedding's gradient is added to an existing one: of an earlier micro batch or of a tied head.
    added = head if accumulate or spec.tie_embeddings else 0
    return [*moments, _Moment(params + added, 0, 2 * stream)]


def inference_memory(
    spec: ModelSpec, *, context_len: int, batch_size: int, math_attention: bool = False
) -> InferenceMemory:
    """Estimate the peaks of a prefill that fills the context and of one decoding step after it.

    math_attention: as in `training_memory`.
    """
    cost = model_cost(spec, context_len)

    def phase(n_tokens: int) -> Memory:
        inside = max(block.forward for block in _block_activations(spec, n_tokens, math_attention))
        # Besides the block's own: the residual stream and the output of the previous block.
        floats = batch_size * (n_tokens * (inside + 2 * spec.d_model) + spec.vocab_size)
        return Memory(
            weights=cost.total_params * BYTES_PER_FLOAT,
            state=cost.state_bytes * batch_size,
            workspace=round(floats * BYTES_PER_FLOAT),
        )

    return InferenceMemory(phase(context_len), phase(1))


def checkpoint_bytes(spec: ModelSpec, memory: str = "full") -> CheckpointBytes:
    """Return the sizes of a stage's two checkpoints; metadata, some kilobytes, is not counted."""
    params, in_bf16 = model_cost(spec, 1).total_params, _count_bf16_weights(spec, memory)
    weights = in_bf16 * BYTES_PER_HALF + (params - in_bf16) * BYTES_PER_FLOAT
    return CheckpointBytes(weights, weights + _moment_bytes(params, memory))


def divisors(number: int) -> list[int]:
    """List the divisors of a number in ascending order."""
    return [n for n in range(1, number + 1) if number % n == 0]
