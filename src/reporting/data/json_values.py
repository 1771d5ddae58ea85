"""Read values of files that may be incomplete or edited: an invalid value becomes None or empty."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from src.config.schema import UserError
from src.reporting.data.shared_results import shared
from src.runtime.log import replace_control_chars
from src.runtime.records import read_verified_json

LARGEST_NUMBER = 1e150
"""Larger than any result; its square is still finite."""
Record = dict[str, Any]
"""A dict from a file or of a row; None where there is no value."""


def clean_text(value: Any) -> str:
    """Make any value printable: generated text may hold control characters and halves of surrogate pairs."""
    return replace_control_chars("" if value is None else str(value).replace("\r\n", "\n"))


@shared
def read_or_none(path: Path) -> Any:
    """Read a JSON file; None where it is missing or damaged, which `damage_lines` reports."""
    try:
        return read_verified_json(path, "")
    except UserError:
        return None


def as_dict(value: Any) -> Record:
    return cast(Record, value) if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return cast(list[Any], value) if isinstance(value, list) else []


def as_numbers(value: Any) -> dict[str, float | None]:
    return {key: as_number(item) for key, item in as_dict(value).items()}


def known_values(runs: Sequence[Record], key: str) -> list[float]:
    """Return the values of the runs that have one."""
    return [run[key] for run in runs if run.get(key) is not None]


def mean_value(runs: Sequence[Record], key: str) -> float | None:
    """Return the mean over the runs that have a value."""
    values = known_values(runs, key)
    return fmean(values) if values else None


def as_floats(value: Any) -> list[float]:
    numbers = map(as_number, as_list(value) if isinstance(value, list) else [value])
    return [math.nan if number is None else float(number) for number in numbers]


def as_text(value: Any) -> str | None:
    return None if value is None else " ".join(clean_text(value).split())


def as_number(value: Any) -> float | None:
    """Return a number; NaN, infinities and values above LARGEST_NUMBER become None."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) <= LARGEST_NUMBER else None  # NaN is not
