"""What a whole model costs, in closed form and without torch: parameters, FLOPs, and the state kept while decoding.

The blocks' own formulas are in `blocks/`, and memory is in `memory_estimate.py`. Training is charged three times the
forward pass, since the backward pass has two products for each. Masking documents changes no figure: how much it makes
needless depends on the text, and it is computed all the same. Every number is checked against the built model in
`tests/contract`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from src.config.schema import ModelSpec
from src.model.blocks import kind_of
from src.model.blocks.kind import Cost, norm_params


@dataclass(frozen=True)
class ModelCost:
    """The cost of a whole model at a context length, by component."""

    context_len: int
    components: dict[str, Cost]
    """`embedding` (tokens and positions), each kind of block with its count (`attention x 8`), `final norm`, `head`."""
    embedding_params: int
    """Token embedding, positions and head."""
    recomputed_flops_per_token: float
    """As executed: what activation checkpointing computes twice, the blocks but for the last product of each."""

    def _sum(self, quantity: Callable[[Cost], float]) -> float:
        return sum(quantity(cost) for cost in self.components.values())

    @property
    def total_params(self) -> int:
        return int(self._sum(lambda cost: cost.params))

    @property
    def active_params(self) -> int:
        return int(self._sum(lambda cost: cost.active_params))

    @property
    def non_embedding_params(self) -> int:
        return self.total_params - self.embedding_params

    @property
    def active_non_embedding_params(self) -> int:
        return self.active_params - self.embedding_params

    @property
    def forward_flops_per_token(self) -> float:
        """As needed."""
        return self._sum(lambda cost: cost.flops)

    @property
    def executed_forward_flops_per_token(self) -> float:
        return self._sum(lambda cost: cost.executed_flops)

    @property
    def train_flops_per_token(self) -> float:
        """As needed."""
        return 3 * self.forward_flops_per_token

    def executed_train_flops_per_token(self, activation_checkpointing: bool = False) -> float:
        """Three forward passes' worth; with activation checkpointing, most of the blocks once more."""
        again = self.recomputed_flops_per_token if activation_checkpointing else 0
        return 3 * self.executed_forward_flops_per_token + again

    @property
    def state_bytes(self) -> int:
        return int(self._sum(lambda cost: cost.state_bytes))

    def totals(self) -> dict[str, float]:
        """Return every sum by its name, for summary.json and the commands."""
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
    """Add up the blocks, the final norm, the embeddings and the head, at a context length in tokens."""
    table = spec.vocab_size * spec.d_model
    embedding = table + spec.learned_positions * spec.d_model
    components = {"embedding": Cost(embedding, embedding, 0, 0, 0)}
    recomputed = 0.0
    for kind in dict.fromkeys(spec.blocks):
        count, cost = spec.blocks.count(kind), kind_of(kind).cost(spec, context_len)
        recomputed += count * (cost.executed_flops - kind_of(kind).activations(spec, context_len).last_product_flops)
        components[f"{kind} x {count}"] = times(cost, count)
    norm = norm_params(spec)
    components["final norm"] = Cost(norm, norm, 0, 0, 0)
    head = 0 if spec.tie_embeddings else table  # tied, its weights are the embedding's
    components["head"] = Cost(head, head, 2 * table, 2 * table, 0)
    return ModelCost(context_len, components, embedding + head, recomputed)


def times(cost: Cost, count: int) -> Cost:
    return Cost(*(count * value for value in vars(cost).values()))
