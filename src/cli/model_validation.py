"""Checks of an architecture, its size and its recipe together: widths, heads, positions, settings without effect."""

from dataclasses import fields
from math import gcd

from src.config.schema import ArchitectureConfig, RecipeConfig, TrainConfig, UserError
from src.model.blocks import kind_names, kind_of

SCALED_BY = {
    "rope_factor": ("linear", "llama3"),
    "rope_low_freq_factor": ("llama3",),
    "rope_high_freq_factor": ("llama3",),
    "rope_original_seq_len": ("llama3",),
}
"""Settings of the recipe, and the values of `rope_scaling` with which each has an effect."""


def check_model(config: TrainConfig) -> None:
    """Check the settings that determine a model. Raises UserError."""
    _check_widths(config)
    _check_recipe(config.recipe)
    _check_settings_have_effect(config.architecture)


def _check_widths(config: TrainConfig) -> None:
    architecture, size = config.architecture, config.size
    if size.n_heads is None and size.d_model % size.head_dim:
        raise UserError(
            f"size.d_model={size.d_model}: must be a multiple of size.head_dim={size.head_dim}; "
            f"for example {max(1, size.d_model // size.head_dim) * size.head_dim}"
        )
    n_heads = size.n_heads or size.d_model // size.head_dim
    if size.n_kv_heads is not None and n_heads % size.n_kv_heads:
        raise UserError(
            f"size.n_kv_heads={size.n_kv_heads}: must divide the {n_heads} heads of queries; "
            f"for example {gcd(n_heads, size.n_kv_heads)}"
        )
    if size.head_dim % 2 and config.recipe.position == "rope":
        raise UserError(
            f"size.head_dim={size.head_dim}: must be even, since rope turns pairs; or recipe.position=learned"
        )
    if architecture.d_inner and "mamba" in architecture.pattern and architecture.d_inner % size.head_dim:
        raise UserError(
            f"architecture.d_inner={architecture.d_inner}: must be a multiple of size.head_dim={size.head_dim}; "
            f"for example {max(1, architecture.d_inner // size.head_dim) * size.head_dim}"
        )
    n_ssm_heads = (architecture.d_inner or architecture.expand * size.d_model) // size.head_dim
    if architecture.n_groups > 1 and n_ssm_heads % architecture.n_groups:
        raise UserError(
            f"architecture.n_groups={architecture.n_groups}: must divide the {n_ssm_heads} heads of mamba; "
            f"for example {gcd(n_ssm_heads, architecture.n_groups)}"
        )
    if architecture.top_k > architecture.n_experts:
        raise UserError(
            f"architecture.top_k={architecture.top_k}: more than architecture.n_experts={architecture.n_experts}"
        )
    window, seq_len = architecture.window, config.training.seq_len
    if "sliding_attention" in architecture.pattern and window is not None and window >= seq_len:
        raise UserError(
            f"architecture.window={window}: not below training.seq_len={seq_len}, so it is just full attention; "
            f"for example {max(1, seq_len // 4)}"
        )


def _check_recipe(recipe: RecipeConfig) -> None:
    if recipe.qkv_bias and recipe.bias:
        raise UserError("recipe.qkv_bias=true: recipe.bias=true has these biases already; leave one out")
    if recipe.rope_scaling != "none" and recipe.position != "rope":
        raise UserError(
            f"recipe.rope_scaling={recipe.rope_scaling}: has no effect with recipe.position={recipe.position}; "
            "leave it out"
        )
    for name, kinds in SCALED_BY.items():
        value = getattr(recipe, name)
        if recipe.rope_scaling not in kinds and value != getattr(RecipeConfig, name):
            raise UserError(
                f"recipe.{name}={value}: has no effect with recipe.rope_scaling={recipe.rope_scaling}; "
                f"leave it out, or set recipe.rope_scaling={kinds[-1]}"
            )
    if recipe.rope_low_freq_factor >= recipe.rope_high_freq_factor:
        raise UserError(
            f"recipe.rope_low_freq_factor={recipe.rope_low_freq_factor:g}: must be below "
            f"recipe.rope_high_freq_factor={recipe.rope_high_freq_factor:g}"
        )


def _check_settings_have_effect(architecture: ArchitectureConfig) -> None:
    """Check that every setting of a block kind has an effect: the pattern contains the kind. Raises UserError."""
    if not architecture.pattern:
        raise UserError(f"architecture.pattern: empty; name the blocks, out of {', '.join(kind_names())}")
    settings = {name: kind_of(name).settings for name in dict.fromkeys((*architecture.pattern, *kind_names()))}
    live = {setting for kind in architecture.pattern for setting in settings[kind]}
    defaults = ArchitectureConfig()
    for item in fields(ArchitectureConfig):
        kinds = [kind for kind, names in settings.items() if item.name in names]
        value = getattr(architecture, item.name)
        if kinds and item.name not in live and value != getattr(defaults, item.name):
            raise UserError(
                f"architecture.{item.name}={value}: architecture {architecture.name} has no {' or '.join(kinds)} "
                "block, so it would change nothing; leave it out, or choose an architecture that does not set it"
            )
    for name in architecture.settings:
        if name not in live:
            raise UserError(
                f"architecture.settings.{name}: no block of architecture {architecture.name} reads it; leave it out"
            )
