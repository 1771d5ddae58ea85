"""The kinds of residual block, by the name that `architecture.pattern` uses. Opens without torch.

A kind of your own is a file `src/model/blocks/<name>.py` with a `Block` and its `KIND`; nothing has to be listed. The
kinds that we ship stand in the table below as well, so that their costs are known before torch is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from src.config import ModelSpec, UserError
from src.model.blocks import activations, costs
from src.model.blocks.activations import Activations
from src.model.blocks.costs import Cost

if TYPE_CHECKING:
    from src.model.blocks.base import Block


def no_activations(spec: ModelSpec, context_len: int) -> Activations:
    """Stand in for a kind that does not say what it keeps in memory."""
    return Activations()


@dataclass(frozen=True)
class Kind:
    """One kind of block: where its class is, what it costs, and which settings of an architecture it reads."""

    block: str
    """`module.Class` in this folder."""
    cost: Callable[[ModelSpec, int], Cost]
    """From a spec and a context length in tokens; no torch."""
    settings: tuple[str, ...] = ()
    """Fields of `ArchitectureConfig`, or keys of its `settings`."""
    activations: Callable[[ModelSpec, int], Activations] = no_activations
    """From a spec and a context length in tokens; a kind that does not say is left out of memory estimates."""


SSM_SETTINGS = ("d_state", "d_conv", "expand", "d_inner", "chunk_size")

KINDS: dict[str, Kind] = {
    "attention": Kind("attention.Attention", costs.attention, activations=activations.attention),
    "sliding_attention": Kind(
        "attention.SlidingAttention", costs.sliding_attention, ("window",), activations.sliding_attention
    ),
    "mlp": Kind("mlp.MLP", costs.mlp, ("d_ff",), activations.mlp),
    "moe": Kind(
        "moe.MoE",
        costs.moe,
        ("n_experts", "top_k", "expert_d_ff", "aux_loss_weight", "router_z_loss_weight", "router_bias_rate"),
        activations.moe,
    ),
    "mamba": Kind("mamba.Mamba", costs.mamba, SSM_SETTINGS, activations.mamba),
    "mamba1": Kind("mamba1.Mamba1", costs.mamba1, SSM_SETTINGS, activations.mamba1),
}
_NO_KINDS = {
    "__init__",
    "activations",
    "base",
    "costs",
    "linear",
    "norm",
    *(kind.block.partition(".")[0] for kind in KINDS.values()),
}


def kind_names() -> list[str]:
    """List every kind: those of the table, then those that are a file of their own."""
    files = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [*KINDS, *(name for name in files if name not in _NO_KINDS and name not in KINDS)]


@cache
def kind_of(name: str) -> Kind:
    """Look a kind up by its name. Raises UserError where there is none."""
    if name in KINDS:
        return KINDS[name]
    if name not in kind_names():
        raise UserError(f"architecture.pattern: unknown block {name!r}; there are {', '.join(kind_names())}")
    kind = getattr(import_module(f"{__name__}.{name}"), "KIND", None)
    if not isinstance(kind, Kind):
        raise UserError(f"architecture.pattern: src/model/blocks/{name}.py declares no KIND; see blocks/__init__.py")
    return kind


def block_class(name: str) -> "type[Block]":
    """Import the class of a kind."""
    module, _, class_name = kind_of(name).block.partition(".")
    return getattr(import_module(f"{__name__}.{module}"), class_name)
