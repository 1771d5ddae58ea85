"""Select the class of transformers that computes the same as a model, by its blocks and settings, not its name.

`tests/huggingface` checks every class: equal logits, equal greedy text beyond the window, and equal losses in training.
"""

from typing import Any

from src.config.schema import ModelSpec, UserError
from src.huggingface.hybrid_mappings import FEED_FORWARD, GRANITE, HYBRID, MIXERS
from src.huggingface.mamba_mappings import MAMBA1, MAMBA2
from src.huggingface.mapping import OPTIONAL, Mapping
from src.huggingface.transformer_mappings import BIASED_DENSE, CLASSIC_DENSE, DENSE, MOE, QK_NORM_DENSE

MAPPINGS = {
    mapping.model_type: mapping
    for mapping in (DENSE, BIASED_DENSE, QK_NORM_DENSE, CLASSIC_DENSE, MAMBA2, MAMBA1, MOE, GRANITE, HYBRID)
}


def mapping_of(spec: ModelSpec) -> Mapping:
    """Return the mapping of a model. Raises UserError naming the blocks or settings that no class has."""
    mapping = _select_by_blocks(spec)
    if mapping is None:
        kinds = ", ".join(dict.fromkeys(spec.blocks))
        raise UserError(f"blocks {kinds}: no class of transformers has these in this order")
    for name, value in mapping.requires.items():
        if getattr(spec, name) != value:
            wanted = ", ".join(f"{key}={_format_value(each)}" for key, each in mapping.requires.items())
            raise UserError(
                f"{name}={_format_value(getattr(spec, name))}: {mapping.class_name} needs {wanted} for such blocks"
            )
    if any("attention" in kind for kind in spec.blocks):
        for name, setting_of in OPTIONAL.items():
            if (setting := setting_of(spec)) and name not in mapping.optional:
                raise UserError(f"{setting}: {mapping.class_name} has no {name}")
    if mapping is DENSE and spec.d_model % spec.n_heads:
        raise UserError(f"n_heads={spec.n_heads}: {mapping.class_name} needs a divisor of d_model={spec.d_model}")
    if "moe" in spec.blocks and spec.top_k == 1:
        raise UserError(
            f"top_k=1: {mapping.class_name} always gives a single expert the weight 1; ours uses its probability"
        )
    if "moe" in spec.blocks and spec.router_bias_rate:
        raise UserError(f"router_bias_rate={spec.router_bias_rate}: {mapping.class_name} has no router bias")
    if spec.negative_eigenvalues:
        raise UserError(f"negative_eigenvalues=true: {mapping.class_name} has eigenvalues from 0 to 1 alone")
    if "mamba" in spec.blocks and spec.d_inner % spec.d_model:
        raise UserError(f"d_inner={spec.d_inner}: {mapping.class_name} needs a multiple of d_model={spec.d_model}")
    return mapping


def is_exportable(spec: ModelSpec) -> bool:
    """Return whether `mapping_of` has a mapping of a model."""
    try:
        mapping_of(spec)
    except UserError:
        return False
    return True


def _select_by_blocks(spec: ModelSpec) -> Mapping | None:
    dense = CLASSIC_DENSE if spec.norm == "layernorm" else BIASED_DENSE if spec.qkv_bias else DENSE
    for mapping in (MAMBA2, MAMBA1, dense, QK_NORM_DENSE, MOE):
        pattern = tuple(mapping.blocks)
        if spec.blocks == pattern * (len(spec.blocks) // len(pattern)):
            return mapping
    mixers, feed_forward = set(spec.blocks[::2]), set(spec.blocks[1::2])
    if len(spec.blocks) % 2 or not mixers <= MIXERS.keys() or not feed_forward <= {*FEED_FORWARD}:
        return None
    return GRANITE if mixers == {"attention", "mamba"} and feed_forward == {"mlp"} else HYBRID


def _format_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
