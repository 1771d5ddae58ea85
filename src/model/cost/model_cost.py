"""The cost of a whole model in closed form, without torch: parameters, FLOPs, and the decoding state.

The formulas of the blocks are in `blocks/`, memory is in `memory_estimate.py`. Training counts as three forward passes,
since the backward pass has two products for each. Document masks change no figure: the entries that they discard depend
on the text and are computed anyway. `tests/contract` compares every number with the built model.
"""

from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add

from src.config.schema import ModelSpec
from src.model.blocks import kind_of
from src.model.blocks.kind import Cost, norm_params

DECODER_LAYERS = 2
"""Square matrices of the decoder of the compression task (`src/model/sequence_decoder.py`)."""


@dataclass(frozen=True)
class ModelCost:
    """The cost of a whole model at a context length, by component."""

    context_len: int
    components: dict[str, Cost]
    """`embedding` (tokens and positions), each kind of block with its count (`attention x 8`), `final norm`, `head`;
    `decoder` in a model of the compression task."""
    embedding_params: int
    """Token embedding, positions, decoder and head."""
    recomputed_flops_per_token: float
    """As executed: recomputed with activation checkpointing, the blocks without the last product of each."""
    mix_recompute_flops_per_token: float
    """As executed: recomputed without activation checkpointing, what lies between the projections of some blocks."""

    @cached_property
    def total(self) -> Cost:
        return reduce(add, self.components.values())

    @property
    def total_params(self) -> int:
        return self.total.params

    @property
    def active_params(self) -> int:
        return self.total.active_params

    @property
    def non_embedding_params(self) -> int:
        return self.total_params - self.embedding_params

    @property
    def active_non_embedding_params(self) -> int:
        return self.active_params - self.embedding_params

    @property
    def forward_flops_per_token(self) -> float:
        """As needed."""
        return self.total.flops

    @property
    def executed_forward_flops_per_token(self) -> float:
        return self.total.executed_flops

    @property
    def train_flops_per_token(self) -> float:
        """As needed."""
        return 3 * self.forward_flops_per_token

    def executed_train_flops_per_token(self, activation_checkpointing: bool = False) -> float:
        """Return the FLOPs of three forward passes and of what is computed again."""
        again = self.recomputed_flops_per_token if activation_checkpointing else self.mix_recompute_flops_per_token
        return 3 * self.executed_forward_flops_per_token + again

    @property
    def state_bytes(self) -> int:
        return self.total.state_bytes

    def totals(self) -> dict[str, float]:
        """Return all totals by name, for summary.json and the commands."""
        return {
            name: getattr(self, name)
            for name in (
                "total_params",
                "active_params",
                "embedding_params",
                "non_embedding_params",
                "active_non_embedding_params",
                "forward_flops_per_token",
                "executed_forward_flops_per_token",
                "train_flops_per_token",
                "state_bytes",
            )
        }


def model_cost(spec: ModelSpec, context_len: int) -> ModelCost:
    """Sum the costs of blocks, final norm, embeddings and head at a context length in tokens."""
    table = spec.vocab_size * spec.d_model
    embedding = table + spec.learned_positions * spec.d_model
    components = {"embedding": Cost(embedding, embedding, 0, 0, 0)}
    recomputed = mixed = 0.0
    for kind in dict.fromkeys(spec.blocks):
        count, cost = spec.blocks.count(kind), kind_of(kind).cost(spec, context_len)
        activations = kind_of(kind).activations(spec, context_len)
        recomputed += count * (cost.executed_flops - activations.last_product_flops)
        mixed += count * activations.mix_flops
        components[f"{kind} x {count}"] = scale_cost(cost, count)
    norm = norm_params(spec)
    components["final norm"] = Cost(norm, norm, 0, 0, 0)
    head = 0 if spec.tie_embeddings else table  # a tied head has no weights of its own
    components["head"] = Cost(head, head, 2 * table, 2 * table, 0)
    outside = embedding + head
    if spec.has_decoder:
        matrices = DECODER_LAYERS * spec.d_model**2
        decoder = matrices + DECODER_LAYERS * (spec.d_model + norm)
        components["decoder"] = Cost(decoder, decoder, 2 * matrices, 2 * matrices, 0)
        outside += decoder
    return ModelCost(context_len, components, outside, recomputed, mixed)


def scale_cost(cost: Cost, count: int) -> Cost:
    return Cost(*(count * value for value in vars(cost).values()))
