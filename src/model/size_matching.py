"""Choose the sizes of a model so that a comparison is fair: the same size as dense, by one of three rules.

The reference is the dense model of the same size and recipe. An architecture lists the settings that matching may
change (`free_parameters`). They are solved in that order, each on its own grid, until the matched quantity is as close
to the reference's as possible. All formulas are in closed form: no model is built and torch is not imported.
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
CLOSE_MATCH = 0.01
"""Relative difference below which no further setting is changed."""
WIDTH_MULTIPLE = 8
"""Widths are multiples of this where that is close enough: matrix units and `grouped_mm` are fastest then.

A larger `match_grain` takes its place where the match stays within TOLERANCE.
"""
REFERENCE_PATTERN = ("attention", "mlp")

QUANTITIES: dict[str, tuple[str, Callable[[ModelCost], float]]] = {
    "active": ("active non-embedding parameters", lambda cost: cost.active_non_embedding_params),
    "total": ("non-embedding parameters", lambda cost: cost.non_embedding_params),
    "flops": ("FLOPs per token", lambda cost: cost.forward_flops_per_token - cost.components["head"].flops),
}
"""The quantity that each matching rule makes equal. `none` reports the difference in `active`."""
FREE_PARAMETERS = ("n_blocks", "d_ff", "expert_d_ff", "d_state", "d_inner")


@dataclass(frozen=True)
class Match:
    """A model with all sizes decided, and its difference from the reference."""

    spec: ModelSpec
    residual: float
    """Matched quantity / that of the reference - 1."""
    solved: dict[str, int]
    """The settings that matching decided."""


def dense_d_ff(size: SizeConfig, recipe: RecipeConfig, grain: int = WIDTH_MULTIPLE) -> int:
    """Return the mlp width of the reference: SwiGLU has three matrices, so it gets 2/3 of the width (Shazeer, 2020).

    It is rounded up to a multiple of 8, or to the nearest multiple of another grain.
    """
    width = size.d_ff or 4 * size.d_model
    if recipe.mlp == "gelu":
        return width
    if grain == WIDTH_MULTIPLE:
        return -(-2 * width // (3 * grain)) * grain
    return max(grain, round(2 * width / (3 * grain)) * grain)


def repeat_pattern(pattern: Iterable[str], n_blocks: int) -> tuple[str, ...]:
    """Repeat a pattern and cut it at `n_blocks`. Raises UserError if the cut drops a kind of block."""
    pattern = tuple(pattern)
    blocks = tuple(islice(cycle(pattern), n_blocks))
    missing = [kind for kind in pattern if kind not in blocks]
    if missing:
        raise UserError(
            f"architecture.n_blocks={n_blocks}: too few for the pattern of {len(pattern)} blocks, {missing[0]} would "
            f"be cut away; give at least {len(pattern)}, or a size with {-(-len(pattern) // 2)} layers or more"
        )
    return blocks


def _candidate_values(name: str, start: int, spec: ModelSpec, grain: int) -> list[range]:
    """List grids of values for a setting around `start`: coarse ones first, finer ones in case those do not match."""
    if name == "n_blocks":
        return [range(1, 4 * start + 1)]
    if name == "d_state":  # closest to the start first: the state size limits what a recurrence can store
        return [
            range(start * 3 // 4, start * 3 // 2 + 1, max(1, start // 8)),
            range(start // 2, start * 2 + 1, max(1, start // 16)),
        ]
    if name == "d_inner" and "mamba" in spec.blocks:
        step = spec.head_dim * spec.n_groups  # whole heads, as many in each group
        return [range(step, 2 * start + 1, step)]
    steps = [grain >> halvings for halvings in range(grain.bit_length())]  # 64, 32, 16, 8, 4, 2, 1
    return [range(step, 8 * start + 1, step) for step in steps]


def _set_parameter(spec: ModelSpec, pattern: list[str], name: str, value: int) -> ModelSpec:
    if name == "n_blocks":
        return replace(spec, blocks=tuple(islice(cycle(pattern), value)))
    return replace(spec, **{name: value})


def _search(
    spec: ModelSpec, pattern: list[str], names: list[str], residual: Callable[[ModelSpec], float], grain: int
) -> tuple[ModelSpec, dict[str, int]]:
    """Solve settings in order until the residual, which increases with each, is close to zero.

    grain: step of widths; above 8, a match within TOLERANCE is close enough.

    If the nearest value of a setting leads to no match, the value on the other side of zero is tried too.
    """

    def distance(found: tuple[ModelSpec, dict[str, int]]) -> float:
        return abs(residual(found[0]))

    limit = CLOSE_MATCH if grain <= WIDTH_MULTIPLE else TOLERANCE
    if not names or distance((spec, {})) <= limit:
        return spec, {}
    name = names[0]
    set_value = partial(_set_parameter, spec, pattern, name)
    found: list[tuple[ModelSpec, dict[str, int]]] = []
    for values in _candidate_values(name, len(spec.blocks) if name == "n_blocks" else getattr(spec, name), spec, grain):
        after = bisect_left(values, 0.0, key=lambda value: residual(set_value(value)))
        sides = values[max(0, after - 1) : after + 1]
        for value in sorted(sides, key=lambda value: abs(residual(set_value(value)))):
            candidate, solved = _search(set_value(value), pattern, names[1:], residual, grain)
            found.append((candidate, {name: value} | solved))
            if distance(found[-1]) <= limit:
                return found[-1]
    return min(found, key=distance)


def _configured_spec(
    architecture: ArchitectureConfig, size: SizeConfig, recipe: RecipeConfig, vocab_size: int, seq_len: int, grain: int
) -> ModelSpec:
    """Build the model as configured, with defaults for unset values."""
    d_ff = dense_d_ff(size, recipe, grain)
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
        norm_eps=recipe.norm_eps,
        rope_theta=recipe.rope_theta,
        negative_eigenvalues=architecture.negative_eigenvalues,
        query_heads=size.n_heads,
        kv_heads=size.n_kv_heads,
        qkv_bias=recipe.qkv_bias,
        rope_scaling=recipe.rope_scaling,
        rope_factor=recipe.rope_factor,
        rope_low_freq_factor=recipe.rope_low_freq_factor,
        rope_high_freq_factor=recipe.rope_high_freq_factor,
        rope_original_seq_len=recipe.rope_original_seq_len,
        n_groups=architecture.n_groups,
    )


def _explain_mismatch(architecture: ArchitectureConfig, solved: dict[str, int]) -> str:
    """Return the part of the error message that names the setting to change."""
    nearest = f", the nearest that {' and '.join(solved)} can reach" if solved else ""
    given = [name for name in architecture.free_parameters if name not in solved]
    if given:
        return f"{nearest}; leave architecture.{given[0]} to matching"
    return f"{nearest}; {'choose other settings' if solved else 'list a setting in architecture.free_parameters'}"


def match_config(config: TrainConfig) -> Match:
    """Match the model of a whole configuration. Raises UserError, as `match_size` does."""
    match = match_size(
        config.architecture,
        config.size,
        config.recipe,
        vocab_size=config.tokenizer.vocab_size,
        seq_len=config.training.seq_len,
        match=config.match,
        grain=config.match_grain,
    )
    return replace(match, spec=replace(match.spec, has_decoder=config.data.task.has_decoder))


def tokens_at_equal_flops(config: TrainConfig, tokens: int) -> int:
    """Return the tokens on which this model takes as many training FLOPs as dense of its size takes on `tokens`."""
    spec, seq_len = match_config(config).spec, config.training.seq_len
    dense, own = (model_cost(each, seq_len).train_flops_per_token for each in (reference_spec(config), spec))
    return int(tokens * dense / own)


def reference_spec(config: TrainConfig) -> ModelSpec:
    """Return the dense model to which the models of a configuration are matched."""
    sizes = config.size, config.recipe, config.tokenizer.vocab_size, config.training.seq_len
    return replace(_dense_spec(*sizes, config.match_grain), has_decoder=config.data.task.has_decoder)


def _dense_spec(size: SizeConfig, recipe: RecipeConfig, vocab_size: int, seq_len: int, grain: int) -> ModelSpec:
    dense = ArchitectureConfig(name="dense", pattern=list(REFERENCE_PATTERN))
    return _configured_spec(dense, size, recipe, vocab_size, seq_len, grain)


def match_size(
    architecture: ArchitectureConfig,
    size: SizeConfig,
    recipe: RecipeConfig,
    *,
    vocab_size: int,
    seq_len: int,
    match: str,
    grain: int = WIDTH_MULTIPLE,
) -> Match:
    """Decide all sizes of a model under a matching rule: `active`, `total`, `flops` or `none`.

    Settings that the user sets stay as they are; the unset ones of `free_parameters` are solved in order. grain: widths
    are multiples of it where the match allows that.

    Raises:
        UserError: unknown block kind, a pattern that is cut, or no match within 2%.
    """
    for kind in architecture.pattern:
        kind_of(kind)
    spec = _configured_spec(architecture, size, recipe, vocab_size, seq_len, grain)
    reference = _dense_spec(size, recipe, vocab_size, seq_len, grain)
    words, count = QUANTITIES["active" if match == "none" else match]
    target = count(model_cost(reference, seq_len))

    def residual(candidate: ModelSpec) -> float:
        return count(model_cost(candidate, seq_len)) / target - 1

    solved: dict[str, int] = {}
    if match != "none":
        names = [name for name in architecture.free_parameters if getattr(architecture, name) is None]
        spec, solved = _search(spec, architecture.pattern, names, residual, grain)
        if abs(residual(spec)) > TOLERANCE:
            raise UserError(
                f"match={match}: {architecture.name} has {residual(spec):+.1%} {words} against dense of size "
                f"{size.name} (limit {TOLERANCE:.0%}){_explain_mismatch(architecture, solved)}, or set match=none"
            )
        repeat_pattern(architecture.pattern, len(spec.blocks))
    return Match(spec, residual(spec), solved)
