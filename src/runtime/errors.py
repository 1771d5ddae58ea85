"""Errors of libraries as one-line messages."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__


@contextmanager
def raise_os_errors() -> Iterator[None]:
    """Turn errors of safetensors and torch that wrap an OSError back into it."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    except RuntimeError as error:
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
