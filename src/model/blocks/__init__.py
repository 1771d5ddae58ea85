"""The kinds of residual block: a folder each, named as `architecture.pattern` names the kind.

A folder holds `module.py` (the block, with torch) and `cost.py` (parameters, FLOPs, state and activation memory,
without torch); its `__init__.py` declares `KIND`. `language_model` builds blocks, `model.cost` adds up their costs.
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
    """Find a kind by its name. Raises UserError where there is none."""
    if name not in kind_names():
        raise UserError(f"architecture.pattern: unknown block {name!r}; there are {', '.join(kind_names())}")
    kind = getattr(import_module(f"{__name__}.{name}"), "KIND", None)
    if not isinstance(kind, Kind):
        raise UserError(f"architecture.pattern: src/model/blocks/{name} declares no KIND; see blocks/kind.py")
    return kind


def block_class(name: str) -> "type[Block]":
    """Import the class of a kind."""
    return getattr(import_module(f"{__name__}.{name}.module"), kind_of(name).block)
