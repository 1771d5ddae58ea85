"""The kinds of residual block: one folder each, named as in `architecture.pattern`.

A folder holds `module.py` (the block, with torch) and `cost.py` (parameters, FLOPs, state and activation memory,
without torch); its `__init__.py` declares `KIND`. `language_model` builds the blocks, `model.cost` sums their costs.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from src.config.schema import UserError
from src.model.blocks.kind import Kind

if TYPE_CHECKING:
    from src.model.blocks.base import Block


@cache
def kind_names() -> list[str]:
    """List every kind of block."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py"))


@cache
def kind_of(name: str) -> Kind:
    """Return the kind of this name. Raises UserError if there is none."""
    if name not in kind_names():
        raise UserError(f"architecture.pattern: unknown block {name!r}; there are {', '.join(kind_names())}")
    kind = getattr(import_module(f"{__name__}.{name}"), "KIND", None)
    if not isinstance(kind, Kind):
        raise UserError(f"architecture.pattern: src/model/blocks/{name} declares no KIND; see blocks/kind.py")
    return kind


def block_class(name: str) -> "type[Block]":
    """Import the class of a kind."""
    return getattr(import_module(f"{__name__}.{name}.module"), kind_of(name).block)
