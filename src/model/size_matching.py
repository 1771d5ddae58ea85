"""Decide every number of a model so that the comparison is fair: the same size, by one of three rules.

The reference is the dense model of the same size and recipe. An architecture names the settings that may give way
(`free_parameters`); they are turned in their order, each in its own grain, until what the rule counts is as near to the
reference's as it gets. All in closed form: nothing is built, torch is not needed.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice

from src.config.schema import ArchitectureConfig, ModelSpec, RecipeConfig, SizeConfig, TrainConfig, UserError
from src.model.blocks import kind_of
from src.model.cost.model_cost import ModelCost, model_cost

TOLERANCE = 0.02
CLOSE = 0.01
"""Once this near, no further knob is turned."""
GRAIN = 8
"""Widths are multiples of this, as matrix units and `grouped_mm` want it, where that comes near enough."""
REFERENCE_PATTERN = ("attention", "mlp")

QUANTITIES: dict[str, tuple[str, Callable[[ModelCost], float]]] = {
    "active": ("active non-embedding parameters", lambda cost: cost.active_non_embedding_params),
    "total": ("non-embedding parameters", lambda cost: cost.non_embedding_params),
    "flops": ("FLOPs per token", lambda cost: cost.forward_flops_per_token - cost.components["head"].flops),
}
"""What each matching rule makes equal. `none` reports the residual of `active`."""
KNOBS = ("n_blocks", "d_ff", "expert_d_ff", "d_state", "d_inner")


@dataclass(frozen=True)
class Match:
    """A model with every number decided, and how near it came to the reference."""

    spec: ModelSpec
    residual: float
    """What the rule counts / the reference's - 1."""
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
            f"architecture.n_blocks={n_blocks}: too few for the pattern of {len(pattern)} blocks, {missing[0]} would "
            f"be cut away; give at least {len(pattern)}, or a size with {-(-len(pattern) // 2)} layers or more"
        )
    return blocks


def _grids(knob: str, start: int, spec: ModelSpec) -> list[range]:
    """List the values to try for a knob around `start`: coarse ones, then finer ones in case those miss."""
    if knob == "n_blocks":
        return [range(1, 4 * start + 1)]
    if knob == "d_state":  # no further than needed: the state is what a recurrence remembers with
        return [
            range(start * 3 // 4, start * 3 // 2 + 1, max(1, start // 8)),
            range(start // 2, start * 2 + 1, max(1, start // 16)),
        ]
    if knob == "d_inner" and "mamba" in spec.blocks:
        return [range(spec.head_dim, 2 * start + 1, spec.head_dim)]
    return [range(grain, 8 * start + 1, grain) for grain in (GRAIN, 4, 2, 1)]


def _turn(spec: ModelSpec, pattern: list[str], knob: str, value: int) -> ModelSpec:
    if knob == "n_blocks":
        return replace(spec, blocks=tuple(islice(cycle(pattern), value)))
    return replace(spec, **{knob: value})


def _search(
    spec: ModelSpec, pattern: list[str], knobs: list[str], residual: Callable[[ModelSpec], float]
) -> tuple[ModelSpec, dict[str, int]]:
    """Turn knobs in their order until the residual, which grows with each, is close to zero.

    Where the nearest value of a knob leads to no match, the one on the other side of zero is tried as well.
    """

    def distance(found: tuple[ModelSpec, dict[str, int]]) -> float:
        return abs(residual(found[0]))

    if not knobs or distance((spec, {})) <= CLOSE:
        return spec, {}
    knob = knobs[0]
    turn = partial(_turn, spec, pattern, knob)
    found: list[tuple[ModelSpec, dict[str, int]]] = []
    for values in _grids(knob, len(spec.blocks) if knob == "n_blocks" else getattr(spec, knob), spec):
        after = bisect_left(values, 0.0, key=lambda value: residual(turn(value)))
        sides = values[max(0, after - 1) : after + 1]
        for value in sorted(sides, key=lambda value: abs(residual(turn(value)))):
            further, solved = _search(turn(value), pattern, knobs[1:], residual)
            found.append((further, {knob: value} | solved))
            if distance(found[-1]) <= CLOSE:
                return found[-1]
    return min(found, key=distance)


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
        router_bias_rate=architecture.router_bias_rate,
        d_state=architecture.d_state or (16 if "mamba1" in architecture.pattern else 64),
        d_conv=architecture.d_conv,
        d_inner=architecture.d_inner or architecture.expand * size.d_model,
        chunk_size=architecture.chunk_size,
        norm=recipe.norm,
        position=recipe.position,
        mlp=recipe.mlp,
        bias=recipe.bias,
        max_seq_len=recipe.max_seq_len,
        settings=dict(architecture.settings),
        tie_embeddings=recipe.tie_embeddings,
    )


def _remedy(architecture: ArchitectureConfig, solved: dict[str, int]) -> str:
    """Say what stands in the way of a match."""
    nearest = f", the nearest that {' and '.join(solved)} can come" if solved else ""
    given = [knob for knob in architecture.free_parameters if knob not in solved]
    if given:
        return f"{nearest}; leave architecture.{given[0]} to matching"
    return f"{nearest}; {'choose other settings' if solved else 'name one in architecture.free_parameters'}"


def match_of(config: TrainConfig) -> Match:
    """Decide the model of a whole configuration. Raises UserError, as `solve` does."""
    return solve(
        config.architecture,
        config.size,
        config.recipe,
        vocab_size=config.tokenizer.vocab_size,
        seq_len=config.training.seq_len,
        match=config.match,
    )


def tokens_at_equal_flops(config: TrainConfig, tokens: int) -> int:
    """Return on how many tokens this model takes the training FLOPs that dense of its size takes for `tokens`."""
    spec, seq_len = match_of(config).spec, config.training.seq_len
    dense, own = (model_cost(each, seq_len).train_flops_per_token for each in (reference_of(config), spec))
    return int(tokens * dense / own)


def reference_of(config: TrainConfig) -> ModelSpec:
    """Return the dense model that the models of a configuration are matched to."""
    dense = ArchitectureConfig(name="dense", pattern=list(REFERENCE_PATTERN))
    size, recipe, training = config.size, config.recipe, config.training
    return _written_spec(dense, size, recipe, config.tokenizer.vocab_size, training.seq_len)


def _reference(spec: ModelSpec, size: SizeConfig, recipe: RecipeConfig) -> ModelSpec:
    """Return dense of the same size and recipe."""
    return replace(spec, blocks=repeat_pattern(REFERENCE_PATTERN, 2 * size.n_layers), d_ff=dense_d_ff(size, recipe))


def solve(
    architecture: ArchitectureConfig,
    size: SizeConfig,
    recipe: RecipeConfig,
    *,
    vocab_size: int,
    seq_len: int,
    match: str,
) -> Match:
    """Decide a model's every number under a matching rule: `active`, `total`, `flops` or `none`.

    A setting that the user gave stays as given; the knobs left open are solved in their order.

    Raises:
        UserError: unknown block kinds, a pattern that is cut, or no match within 2%.
    """
    for kind in architecture.pattern:
        kind_of(kind)
    spec = _written_spec(architecture, size, recipe, vocab_size, seq_len)
    reference = _reference(spec, size, recipe)
    words, count = QUANTITIES["active" if match == "none" else match]
    target = count(model_cost(reference, seq_len))

    def residual(candidate: ModelSpec) -> float:
        return count(model_cost(candidate, seq_len)) / target - 1

    solved: dict[str, int] = {}
    if match != "none":
        knobs = [knob for knob in architecture.free_parameters if getattr(architecture, knob) is None]
        spec, solved = _search(spec, architecture.pattern, knobs, residual)
        if abs(residual(spec)) > TOLERANCE:
            raise UserError(
                f"match={match}: {architecture.name} has {residual(spec):+.1%} {words} against dense of size "
                f"{size.name} (limit {TOLERANCE:.0%}){_remedy(architecture, solved)}, or set match=none"
            )
        repeat_pattern(architecture.pattern, len(spec.blocks))
    return Match(spec, residual(spec), solved)
