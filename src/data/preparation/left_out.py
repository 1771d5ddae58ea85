"""What a corpus leaves out: counts with first locations, and the warning if it is much."""

import numpy as np

from src.data.document import N_EXAMPLES, ReadTally, Tally, format_size
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.splits import DUPLICATE, NEAR_DUPLICATE

LEFT_OUT = {"duplicate": DUPLICATE, "near duplicate of held-out text": NEAR_DUPLICATE}
"""Documents that the split leaves out, by reason."""
MAX_UNEXPECTED_SHARE = 0.1
"""Share of the bytes of a corpus that may be left out without a warning."""


def drop_warnings(name: str, dropped: Tally, n_bytes: int) -> list[str]:
    """List skipped files, notes, and a warning if much text was left out. n_bytes: bytes of the remaining text."""
    lines = []
    lost = dropped.unexpected_bytes
    if isinstance(dropped, ReadTally):
        if dropped.passed_over:
            lines.append(f"{name}: passed over: {dropped.passed_over.describe()}")
        lines += [f"{name}: {note}" for note in dropped.notes]
        lost += dropped.passed_over.unexpected_bytes
    if lost > MAX_UNEXPECTED_SHARE * (lost + n_bytes):
        lines.append(
            f"warning: {name}: {format_size(lost)} of {format_size(lost + n_bytes)} are left out "
            f"({lost / (lost + n_bytes):.0%}), for the reasons above"
        )
    return lines


def count_split_drops(store: DocumentStore, split_assignment: np.ndarray) -> Tally:
    """Count what the split leaves out, with bytes and first locations."""
    tally = Tally()
    for reason, number in LEFT_OUT.items():
        chosen = np.flatnonzero(split_assignment == number)
        if not len(chosen):
            continue
        n_bytes = sum(
            int(sizes[split_assignment[first : first + len(sizes)] == number].sum())
            for first, _, sizes in store.blocks()
        )
        names = [where for _, where, _ in store.locate(chosen[:N_EXAMPLES].tolist()).values()]
        tally.record(reason, n_bytes, "", len(chosen))
        tally.first[reason] = names
    return tally
