"""Documents, and the tally of what a corpus leaves out: how much of it, why, and where it stood."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from src.runtime.log import printable

UNKNOWN = "unknown"
"""The license of a document that names none."""
GENERATED = ("stories", "scripts")
"""The sources that generate text instead of reading it."""
FIRST = 3
"""Names that are kept of each reason."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text and what is known of it."""

    text: str
    group: str | None = None
    """Documents of a group stay on one side of the split; None: the document is a group of its own."""
    path: str = ""
    licence: str = UNKNOWN
    revision: str = ""
    """The commit of the repository that it comes from."""
    bits: float | None = None
    """Exact -log2 of its probability, where the text was generated."""
    file: str = field(default="", compare=False)
    """The file that was read, where `path` is another: a record can say its own."""
    place: int = field(default=0, compare=False)
    """Line of the file at which it begins, or number of its record, from 1; 0: the document is the file."""

    @property
    def name(self) -> str:
        """Return where it stands, for messages."""
        return place_name(self.path, self.file, self.place)


def place_name(path: str, file: str, place: int) -> str:
    """Write where a document stands."""
    where = f"{file or path}:{place}" if place else file or path
    return f"{where} ({path})" if file and path else where


class Tally(Counter[str]):
    """Counts by reason, with the bytes and the first names of each."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes: Counter[str] = Counter()
        self.first: dict[str, list[str]] = {}
        self.lost_bytes = 0
        """Bytes that a user may not have meant to lose."""

    def record(self, reason: str, n_bytes: int, name: str, count: int = 1, is_loss: bool = True) -> None:
        """Count something that is left out. is_loss: whether it may have been meant to stay."""
        self[reason] += count
        self.n_bytes[reason] += n_bytes
        self.lost_bytes += n_bytes if is_loss else 0
        names = self.first.setdefault(reason, [])
        if name and len(names) < FIRST:
            names.append(name)

    def details(self) -> dict[str, dict[str, Any]]:
        """Return bytes and first names by reason, as the manifest has them."""
        return {reason: {"bytes": self.n_bytes[reason], "first": self.first.get(reason, [])} for reason in sorted(self)}

    def describe(self) -> str:
        """Write all reasons into one line, each with its count, size and first names."""
        return "; ".join(self._describe(reason) for reason, count in sorted(self.items()) if count) or "none"

    def _describe(self, reason: str) -> str:
        names = list(self.first.get(reason, ()))
        names += ["..."] if names and self[reason] > len(names) else []
        size = [size_text(self.n_bytes[reason])] if self.n_bytes[reason] else []
        more = ": ".join([*size, *([", ".join(names)] if names else [])])
        return printable(f"{self[reason]:,} {reason}" + (f" ({more})" if more else ""))


class Losses(Tally):
    """Documents and files that were to be read and are left out; files that are passed over; notes for the user."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_over = Tally()
        self.notes: list[str] = []


def record_loss(
    dropped: Counter[str], reason: str, n_bytes: int, name: str, count: int = 1, is_loss: bool = True
) -> None:
    """Count what is left out; a plain counter takes the count alone."""
    if isinstance(dropped, Tally):
        dropped.record(reason, n_bytes, name, count, is_loss)
    else:
        dropped[reason] += count


def lose(dropped: Counter[str], reason: str, document: Document, is_loss: bool = True) -> None:
    """Count a document that is left out."""
    record_loss(dropped, reason, len(document.text.encode()), document.name, is_loss=is_loss)


def pass_over(dropped: Counter[str], reason: str, n_bytes: int, name: str, is_loss: bool = True) -> None:
    """Count a file that is not read."""
    if isinstance(dropped, Losses):
        dropped.passed_over.record(reason, n_bytes, name, 1, is_loss)


def add_note(dropped: Counter[str], note: str) -> None:
    """Keep a line for the user, once."""
    if isinstance(dropped, Losses) and note not in dropped.notes:
        dropped.notes.append(note)


def size_text(n_bytes: int) -> str:
    """Write a size with its unit."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes} bytes"
