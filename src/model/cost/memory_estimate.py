"""What training and using a model takes in memory, in closed form and without torch.

A training step is followed from the loss backwards, block by block: what was kept for the backward pass shrinks while
gradients grow, and the moment with the most alive is the peak. `tests/profiling/peaks.py` measures the same from
the allocator; what the process itself takes (interpreter, libraries, the allocator's own reserve) comes on top.

Weights, gradients and the optimizer's two moments are fp32 always. In bf16 and fp16 the estimate is an upper bound:
activations as in fp32, and a copy of the weights in two bytes each.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

from src.config.schema import ModelSpec
from src.model.blocks import kind_of
from src.model.blocks.kind import BYTES_PER_FLOAT, norm_kept
from src.model.cost.model_cost import model_cost

LOGITS_AT_ONCE = 1 << 22
"""How many logits the loss holds at a time: 16 MB in fp32, small enough to stay out of the way, large enough for full
matrix speed."""
MIN_LOSS_CHUNK = 64
"""Tokens: as many at least have their logits computed together."""
BYTES_PER_HALF = 2


def loss_chunk(vocab_size: int) -> int:
    """Return for how many tokens the loss computes logits at a time."""
    return max(MIN_LOSS_CHUNK, LOGITS_AT_ONCE // vocab_size)


@dataclass(frozen=True)
class Memory:
    """Bytes alive at the moment of the peak."""

    weights: int
    gradients: int = 0
    optimizer: int = 0
    state: int = 0
    """Keys, values and recurrent states of all sequences, while decoding."""
    activations: int = 0
    """Kept for the backward pass."""
    workspace: int = 0
    """Alive for an instant."""

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        return asdict(self)


class Inference(NamedTuple):
    """The two phases of generating text."""

    prefill: Memory
    decode: Memory


class CheckpointBytes(NamedTuple):
    """On the disk: `best` holds weights, `last` the optimizer's state as well."""

    best: int
    last: int


class _Moment(NamedTuple):
    """Floats alive besides weights and optimizer."""

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
) -> Memory:
    """Estimate the peak of a training step, from the second on, when the optimizer's state is there.

    accumulate: whether gradients of several micro batches are summed, so that they exist all the time.
    """
    masks = document_masking, dropout > 0
    moments = _moments(spec, seq_len, micro_batch_size, accumulate, activation_checkpointing, *masks)
    worst = max(moments, key=sum)
    params = model_cost(spec, seq_len).total_params
    return Memory(
        weights=params * (BYTES_PER_FLOAT + (BYTES_PER_HALF if precision != "fp32" else 0)),
        gradients=round(worst.gradients * BYTES_PER_FLOAT),
        optimizer=2 * params * BYTES_PER_FLOAT,
        activations=round(worst.activations * BYTES_PER_FLOAT),
        workspace=round(worst.workspace * BYTES_PER_FLOAT),
    )


def _moments(
    spec: ModelSpec,
    seq_len: int,
    micro_batch_size: int,
    accumulate: bool,
    activation_checkpointing: bool,
    document_masking: bool,
    drops: bool,
) -> list[_Moment]:
    """List what is alive at the loss, at the final norm, in each block from the last to the first, and at the end."""
    tokens = seq_len * micro_batch_size
    stream = tokens * spec.d_model
    head = spec.vocab_size * spec.d_model
    params = model_cost(spec, seq_len).total_params
    found = [kind_of(kind).activations(spec, seq_len) for kind in spec.blocks]
    whole = [tokens * (block.kept + (block.masks if document_masking else 0)) for block in found]
    kept = [float(stream)] * len(whole) if activation_checkpointing else whole
    if drops:  # the factors on what each block adds, and on the embedding
        kept, whole = ([floats + stream for floats in each] for each in (kept, whole))
        kept[0], whole[0] = kept[0] + stream, whole[0] + stream
    final = tokens * norm_kept(spec)

    rows = min(tokens, loss_chunk(spec.vocab_size))
    standing = params if accumulate else 0
    at_loss = _Moment(standing + head, sum(kept) + final, stream + rows * (spec.vocab_size + spec.d_model))
    through_norm = (4 if spec.norm == "rmsnorm" else 2) * stream
    moments = [at_loss, _Moment(standing or head, sum(kept) + final, through_norm)]
    done = head
    for i in reversed(range(len(whole))):
        kind = kind_of(spec.blocks[i])
        done += kind.cost(spec, seq_len).params
        gradients = standing + kind.cost(spec, seq_len).params if accumulate else done
        # The last hidden states are held by the step itself, the residual stream's gradient by autograd.
        workspace = tokens * found[i].backward + 2 * stream
        moments.append(_Moment(gradients, sum(kept[:i]) + whole[i], workspace))
    # The embedding's gradient is added to one that is there: that of an earlier micro batch, or of a tied head.
    added = head if accumulate or spec.tie_embeddings else 0
    return [*moments, _Moment(params + added, 0, 2 * stream)]


def inference_memory(spec: ModelSpec, *, context_len: int, batch_size: int) -> Inference:
    """Estimate the peaks of reading a prompt that fills the context at once, and of one decoding step after it."""
    cost = model_cost(spec, context_len)

    def phase(n_tokens: int) -> Memory:
        inside = max(kind_of(kind).activations(spec, n_tokens).forward for kind in set(spec.blocks))
        # Besides the block's own: the residual stream, and the answer of the block before.
        floats = batch_size * (n_tokens * (inside + 2 * spec.d_model) + spec.vocab_size)
        return Memory(
            weights=cost.total_params * BYTES_PER_FLOAT,
            state=cost.state_bytes * batch_size,
            workspace=round(floats * BYTES_PER_FLOAT),
        )

    return Inference(phase(context_len), phase(1))


def checkpoint_bytes(spec: ModelSpec) -> CheckpointBytes:
    """Return the sizes of a stage's two checkpoints; names and shapes, some kilobytes, are not counted."""
    weights = model_cost(spec, 1).total_params * BYTES_PER_FLOAT
    return CheckpointBytes(weights, 3 * weights)


def largest_micro_batch(
    spec: ModelSpec,
    *,
    seq_len: int,
    global_batch_size: int,
    available_bytes: int,
    activation_checkpointing: bool = False,
    precision: str = "fp32",
    document_masking: bool = False,
    dropout: float = 0.0,
) -> int:
    """Return the largest divisor of `global_batch_size` whose training step fits; 0 if not even one sequence does."""
    for size in reversed(divisors(global_batch_size)):
        needed = training_memory(
            spec,
            seq_len=seq_len,
            micro_batch_size=size,
            accumulate=size < global_batch_size,
            activation_checkpointing=activation_checkpointing,
            precision=precision,
            document_masking=document_masking,
            dropout=dropout,
        )
        if needed.total <= available_bytes:
            return size
    return 0


def divisors(number: int) -> list[int]:
    """List what divides a number, the least first."""
    return [n for n in range(1, number + 1) if number % n == 0]
