"""torch's functions without the decorators that import torch's compiler at their first call, for 2 s at each start.

The decorators keep torch.compile from tracing a function. What is compiled here calls none of these functions, or calls
them as an operator, which is not traced.
"""

from typing import TypeVar

from torch._library.custom_ops import CustomOpDef
from torch.nn.modules import linear_cross_entropy

T = TypeVar("T")


def undecorated(function: T) -> T:
    """Return the function that a decorator of torch wraps, or the function itself."""
    return getattr(function, "__wrapped__", function)


def prepare_linear_cross_entropy() -> None:
    """Let the operators behind F.linear_cross_entropy compute without importing the compiler."""
    for operator in vars(linear_cross_entropy).values():
        if isinstance(operator, CustomOpDef):
            functions = operator._backend_fns
            functions.update({device: undecorated(function) for device, function in functions.items()})
