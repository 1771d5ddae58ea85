"""Results that many parts of a report need, computed once for each report.

Each table and chart is a function of the runs, so most of them read the same files and group the same runs.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_results: ContextVar[dict[Any, Any] | None] = ContextVar("results", default=None)


@contextmanager
def share_results() -> Generator[None]:
    """Let every function that is marked `shared` compute its results once during the block."""
    token = _results.set({})
    try:
        yield
    finally:
        _results.reset(token)


def shared(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function whose results nobody changes; outside of `share_results` it computes each time.

    Texts, numbers and paths count by value, other arguments by identity.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        results = _results.get()
        if results is None:
            return function(*args, **kwargs)
        key = (function, *map(_identity, args), *((name, _identity(value)) for name, value in kwargs.items()))
        if key not in results:
            results[key] = function(*args, **kwargs), args, kwargs  # an argument that is kept keeps its identity
        return results[key][0]

    return call


def _identity(value: object) -> object:
    return value if isinstance(value, str | int | float | Path | None) else ("object", id(value))
