"""The quantity that a stage is judged by: bits per byte of text, or the accuracy of the answers of a synthetic task."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Metric:
    """A quantity, and its words in a report."""

    key: str
    """End of its column: `<stage>/<split>_<key>`."""
    unit: str
    heading: str
    """In a table."""
    best: str
    """lowest or highest."""
    of_split: str
    """The quantity of a split."""
    leads: str
    """What the best has, of a split."""
    cost_unit: str
    """What `to_cost` returns."""

    def to_cost(self, value: float) -> float:
        """Return a value of which less is better: itself, or the error 1 - accuracy. It is its own inverse."""
        return value if self.best == "lowest" else 1 - value


BITS = Metric(
    "bits_per_byte",
    "bits per byte",
    "bits/byte",
    "lowest",
    "bits per byte of the {split} text",
    "has the fewest bits per byte of the {split} text",
    "bits per byte",
)
ACCURACY = Metric(
    "accuracy",
    "accuracy",
    "accuracy",
    "highest",
    "the accuracy of {split} answers",
    "has the highest accuracy of {split} answers",
    "error (1 - accuracy)",
)
METRICS = (BITS, ACCURACY)


def metric_of(records: Iterable[Mapping[str, Any]], stage: str) -> Metric:
    """Return what a stage of these runs is judged by."""
    return ACCURACY if any(record.get(f"{stage}/val_accuracy") is not None for record in records) else BITS
