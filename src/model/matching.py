"""Decide every number of a model so that the comparison is fair: same size, same count of parameters at work.

The reference is the dense model of the same size and recipe. An architecture names the settings that may give way
(`match_knobs`); each is turned in its own grain until the parameters that work for a token, embeddings aside, are as
near to the reference's as they get. All in closed form: nothing is built, torch is not needed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import cycle, islice

from src.config import ArchitectureConfig, ModelSpec, RecipeConfig, SizeConfig, UserError
from src.model.accounting import BLOCK_COSTS, model_cost

TOLERANCE = 0.02
GRAIN = 8
"""Widths are multiples of this: matrix units and `grouped_mm` want it."""
REFERENCE_PATTERN = ("attention", "mlp")

SETTINGS_OF_KIND: dict[str, tuple[str, ...]] = {
    "sliding_attention": ("window",),
    "mlp": ("d_ff",),
    "moe": ("n_experts", "top_k", "expert_d_ff", "aux_loss_weight", "router_z_loss_weight"),
    "mamba": ("d_state", "d_conv", "expand", "chunk_size"),
}
"""Which settings of an architecture belong to which block kind."""


@dataclass(frozen=True)
class Match:
    """A model with every number decided, and how near it came to the reference."""

    spec: ModelSpec
    residual: float
    """(active non-embedding parameters) / (the reference's) - 1."""
    solved: dict[str, int]
    """The settings that matching decided."""


def dense_d_ff(size: SizeConfig, recipe: RecipeConfig) -> int:
    """Width of the reference's mlp: SwiGLU has three matrices, so it gets 2/3 of the width (Shazeer, 2020)."""
    width = size.d_ff or 4 * size.d_model
    return width if recipe.mlp == "gelu" else -(-2 * width // (3 * GRAIN)) * GRAIN


def repeat_pattern(pattern: Iterable[str], n_blocks: int) -> tuple[str, ...]:
    """Repeat a pattern and cut it at `n_blocks`. Raises UserError where the cut drops a kind of block."""
    pattern = tuple(pattern)
    blocks = tuple(islice(cycle(pattern), n_blocks))
    missing = [kind for kind in pattern if kind not in blocks]
    if missing:
        raise UserError(
            f"architecture.n_blocks={n_blocks}: too few for the pattern {list(pattern)}, {missing[0]} would be cut "
            f"away; use at least {len(pattern)}, or a size with more layers"
        )
    return blocks


def _candidates(knob: str, start: int) -> Iterable[int]:
    if knob == "n_blocks":
        return range(1, 4 * start + 1)
    if knob == "d_state":
        return range(48, 97, GRAIN)
    return range(GRAIN, 8 * start + 1, GRAIN)


def _turn(spec: ModelSpec, pattern: list[str], knob: str, value: int) -> ModelSpec:
    if knob == "n_blocks":
        return replace(spec, blocks=tuple(islice(cycle(pattern), value)))
    return replace(spec, **{knob: value})


def _written_spec(
    architecture: ArchitectureConfig, size: SizeConfig, recipe: RecipeConfig, vocab_size: int, seq_len: int
) -> ModelSpec:
    """The model as the configuration has it, the defaults filled in where it is silent."""
    d_ff = dense_d_ff(size, recipe)
    n_blocks = architecture.n_blocks or 2 * size.n_layers
    return ModelSpec(
        architecture=architecture.name,
        blocks=repeat_pattern(architecture.pattern, n_blocks),
        vocab_size=vocab_size,
        d_model=size.d_model,
        head_dim=size.head_dim,
        d_ff=architecture.d_ff or d_ff,
        expert_d_ff=architecture.expert_d_ff or d_ff,
        n_experts=architecture.n_experts,
        top_k=architecture.top_k,
        aux_loss_weight=architecture.aux_loss_weight,
        router_z_loss_weight=architecture.router_z_loss_weight,
        window=architecture.window or max(1, seq_len // 4),
        d_state=architecture.d_state or 64,
        d_conv=architecture.d_conv,
        expand=architecture.expand,
        chunk_size=architecture.chunk_size,
        norm=recipe.norm,
        position=recipe.position,
        mlp=recipe.mlp,
        bias=recipe.bias,
        max_seq_len=recipe.max_seq_len,
    )


def _remedy(architecture: ArchitectureConfig, solved: dict[str, int]) -> str:
    """Say what stands in the way of a match."""
    nearest = f", the nearest that {' and '.join(solved)} can come" if solved else ""
    given = [knob for knob in architecture.match_knobs if knob not in solved]
    if given:
        return f"{nearest}; leave architecture.{given[0]} to matching"
    return f"{nearest}; {'choose other settings' if solved else 'name a knob in architecture.match_knobs'}"


def solve(
    architecture: ArchitectureConfig,
    size: SizeConfig,
    recipe: RecipeConfig,
    *,
    vocab_size: int,
    seq_len: int,
    match: str,
) -> Match:
    """Decide a model's every number under a matching rule, `active` or `none`.

    A setting that the user gave stays as given; the knobs left open are solved in their order.

    Raises:
        UserError: unknown block kinds, a pattern that is cut, or no match within 2%.
    """
    for kind in architecture.pattern:
        if kind not in BLOCK_COSTS:
            raise UserError(f"architecture.pattern: unknown block {kind!r}; there are {', '.join(BLOCK_COSTS)}")
    spec = _written_spec(architecture, size, recipe, vocab_size, seq_len)
    reference = replace(
        spec, blocks=repeat_pattern(REFERENCE_PATTERN, 2 * size.n_layers), d_ff=dense_d_ff(size, recipe)
    )
    target = model_cost(reference, seq_len).active_non_embedding_params

    def residual(candidate: ModelSpec) -> float:
        return model_cost(candidate, seq_len).active_non_embedding_params / target - 1

    solved: dict[str, int] = {}
    if match == "active":
        for knob in architecture.match_knobs:
            if getattr(architecture, knob) is not None:
                continue
            start = len(spec.blocks) if knob == "n_blocks" else dense_d_ff(size, recipe)
            turned = {value: _turn(spec, architecture.pattern, knob, value) for value in _candidates(knob, start)}
            solved[knob] = min(turned, key=lambda value: abs(residual(turned[value])))
            spec = turned[solved[knob]]
        if abs(residual(spec)) > TOLERANCE:
            raise UserError(
                f"match=active: {architecture.name} has {residual(spec):+.1%} active non-embedding parameters against "
                f"dense of size {size.name} (limit {TOLERANCE:.0%}){_remedy(architecture, solved)}, or set match=none"
            )
        repeat_pattern(architecture.pattern, len(spec.blocks))
    return Match(spec, residual(spec), solved)
