"""Other programs' errors, told in our one line."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none."""
    message = str(error).strip()
    return message.splitlines()[0] if message else type(error).__name__


@contextmanager
def raise_os_errors() -> Iterator[None]:
    """Raise as OSError what safetensors and torch make of one."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    except RuntimeError as error:
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
