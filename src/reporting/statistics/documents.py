"""How much of a difference between two models may be due to the documents that were drawn for the test split.

Seeds say how a result varies when training is repeated; they say nothing of the text. Documents are resampled instead
(Efron, 1979; scipy.stats.bootstrap): the interval covers the difference on other documents of the same kind.
"""

# scipy brings no types of its own.
# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from src.reporting.data.json_values import Record, as_floats

MIN_DOCUMENTS = 10
RESAMPLES = 4000


class DocumentLosses(NamedTuple):
    """The documents of a test split, and the loss of a model on each."""

    first: tuple[float, ...]
    """Position of the first token of each."""
    nats: np.ndarray
    n_bytes: np.ndarray


class Interval(NamedTuple):
    """A difference in bits per byte, and its 95% interval over documents."""

    value: float
    low: float
    high: float
    n_documents: int


def losses_of(seeds: Sequence[Record]) -> DocumentLosses | None:
    """Return the mean over seeds of the loss of each document; None where seeds do not have the same documents.

    seeds: of each run, `first`, `nats` and `bytes` of the documents, as evaluation.json has them.
    """
    read = [{key: as_floats(seed.get(key)) for key in ("first", "nats", "bytes")} for seed in seeds]
    if not read or not read[0]["first"]:
        return None
    same = all((seed["first"], seed["bytes"]) == (read[0]["first"], read[0]["bytes"]) for seed in read)
    if not same or any(len(seed["nats"]) != len(read[0]["first"]) for seed in read):
        return None
    nats, n_bytes = np.mean([seed["nats"] for seed in read], axis=0), np.array(read[0]["bytes"])
    is_complete = np.isfinite(nats).all() and len(n_bytes) == len(nats) and n_bytes.sum() > 0
    return DocumentLosses(tuple(read[0]["first"]), nats, n_bytes) if is_complete else None


def difference_over_documents(model: DocumentLosses, other: DocumentLosses) -> Interval | None:
    """Return by how many bits per byte a model is above another, with its interval; None with too few documents."""
    from scipy.stats import bootstrap

    n = len(model.first)
    if model.first != other.first or n < MIN_DOCUMENTS:
        return None

    def bits_per_byte(gap: Any, n_bytes: Any, axis: int = -1) -> Any:
        return gap.sum(axis=axis) / n_bytes.sum(axis=axis) / math.log(2)

    gap = model.nats - other.nats
    found = bootstrap(
        (gap, model.n_bytes), bits_per_byte, paired=True, n_resamples=RESAMPLES, batch=500, method="percentile", rng=0
    )
    low, high = found.confidence_interval
    return Interval(float(bits_per_byte(gap, model.n_bytes)), float(low), float(high), n)
