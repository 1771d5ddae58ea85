"""Check each value by the description of its field: a number's range, a text's choices, a path, a name."""

import math
import os
import re
from pathlib import Path

from src.config.errors import UserError
from src.config.setting import Range, Setting, values_of

MAX_PATH_BYTES, MAX_PART_BYTES, MAX_NAME_BYTES = 1000, 255, 64
"""Limits of file systems for a path (less the files below it) and each part of it; three names form one part."""


def check_settings(config: object) -> None:
    """Check each value of a command's configuration by itself. Raises UserError."""
    for key, setting, value in values_of(config):
        check_value(key, setting, value)


def check_value(key: str, setting: Setting, value: object) -> None:
    """Check one value. Raises UserError."""
    if isinstance(value, int | float) and not isinstance(value, bool) and setting.range:
        check_number(key, value, setting.range)
    elif isinstance(value, str):
        if setting.range and value not in setting.choices:
            raise UserError(f"{key}={shorten(value)}: must be a number, or {' or '.join(setting.choices)}")
        if setting.choices and value not in setting.choices:
            raise UserError(f"{key}={shorten(value)}: must be one of {', '.join(setting.choices)}")
        if setting.form == "path":
            check_path(key, value)
        elif setting.form == "name":
            check_name(f"{key}={value}", value)


def check_number(key: str, value: float, allowed: Range) -> None:
    """Check that a number is within its range. Raises UserError."""
    least, most, above, below, _ = allowed
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value}: must be a finite number")
    if value < least or (above and value == least):
        if above or least == 1:
            raise UserError(f"{key}={shorten(value)}: must be greater than {0 if least == 1 and not above else least}")
        raise UserError(f"{key}={shorten(value)}: must {'not be negative' if least == 0 else f'be at least {least}'}")
    if value > most or (below and value == most):
        words = "must be below" if below else "is a share, at most" if most == 1 else "must be at most"
        raise UserError(f"{key}={shorten(value)}: {words} {most}")


def shorten(value: object, most: int = 100) -> str:
    """Write a value for a message, without the middle of what is very long."""
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 10]}...{text[-7:]}"


def check_path(key: str, value: str) -> None:
    """Check that a text can be a path at all. Raises UserError."""
    shown = shorten(value)
    try:
        path = os.fsencode(Path(value).expanduser().absolute())
    except RuntimeError:
        raise UserError(f"{key}={shown}: there is no such user; write ./~... for a file of that name") from None
    except UnicodeEncodeError:
        raise UserError(f"{key}={shown}: is not valid UTF-8") from None
    if b"\0" in path:
        raise UserError(f"{key}={shown}: a path cannot have a zero byte")
    if len(path) > MAX_PATH_BYTES or any(len(part) > MAX_PART_BYTES for part in path.split(b"/")):
        raise UserError(
            f"{key}={shown}: too long for a path: at most {MAX_PATH_BYTES} bytes, {MAX_PART_BYTES} in each part"
        )


def check_name(setting: str, name: str) -> None:
    """Check a name that becomes that of a folder. Raises UserError."""
    shown = shorten(setting, 400)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UserError(f"{shown}: names a folder, so it must be of letters, digits, dots and dashes alone")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise UserError(f"{shown}: names a folder, so it must have at most {MAX_NAME_BYTES} bytes")
