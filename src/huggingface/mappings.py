"""Which class of transformers computes what a model of ours computes: chosen by its blocks and settings, not its name.

The table of classes, with the traps of each, is checked by `tests/huggingface`: equal logits, equal greedy
text past the window, and equal losses through steps of training.
"""

from typing import Any

from src.config.schema import ModelSpec, UserError
from src.huggingface.hybrid_mappings import FEED_FORWARD, GRANITE, HYBRID, MIXERS
from src.huggingface.mamba_mappings import MAMBA1, MAMBA2
from src.huggingface.mapping import Twin
from src.huggingface.transformer_mappings import CLASSIC_DENSE, DENSE, MOE, QK_NORM_DENSE

TWINS = {twin.model_type: twin for twin in (DENSE, QK_NORM_DENSE, CLASSIC_DENSE, MAMBA2, MAMBA1, MOE, GRANITE, HYBRID)}


def twin_of(spec: ModelSpec) -> Twin:
    """Choose the class that computes the same. Raises UserError naming what none has."""
    twin = _by_blocks(spec)
    if twin is None:
        kinds = ", ".join(dict.fromkeys(spec.blocks))
        raise UserError(f"blocks {kinds}: no class of transformers has them in this order")
    for name, value in twin.requires.items():
        if getattr(spec, name) != value:
            wanted = ", ".join(f"{key}={_shown(each)}" for key, each in twin.requires.items())
            raise UserError(f"{name}={_shown(getattr(spec, name))}: {twin.class_name} needs {wanted} for such blocks")
    if "moe" in spec.blocks and spec.top_k == 1:
        raise UserError(f"top_k=1: {twin.class_name} always gives one expert alone the weight 1; ours keeps its share")
    if "moe" in spec.blocks and spec.router_bias_rate:
        raise UserError(f"router_bias_rate={spec.router_bias_rate}: {twin.class_name} has no bias at its router")
    if "mamba" in spec.blocks and spec.d_inner % spec.d_model:
        raise UserError(f"d_inner={spec.d_inner}: {twin.class_name} needs a multiple of d_model={spec.d_model}")
    return twin


def _by_blocks(spec: ModelSpec) -> Twin | None:
    if set(spec.blocks) == {"mamba"}:
        return MAMBA2
    if set(spec.blocks) == {"mamba1"}:
        return MAMBA1
    mixers, feed_forward = set(spec.blocks[::2]), set(spec.blocks[1::2])
    if len(spec.blocks) % 2:
        return None
    if mixers == {"qk_norm_attention"} and feed_forward == {"mlp"}:
        return QK_NORM_DENSE
    if not mixers <= MIXERS.keys() or not feed_forward <= {*FEED_FORWARD}:
        return None
    if mixers == {"attention"} and feed_forward == {"moe"}:
        return MOE
    if mixers == {"attention"} and feed_forward == {"mlp"}:
        return CLASSIC_DENSE if spec.norm == "layernorm" else DENSE
    return GRANITE if mixers == {"attention", "mamba"} and feed_forward == {"mlp"} else HYBRID


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
