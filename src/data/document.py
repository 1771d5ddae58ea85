"""Documents, and counts of the documents and files that a corpus leaves out, by reason."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from src.runtime.log import replace_control_chars

UNKNOWN = "unknown"
"""The license of a document that names none."""
GENERATED = ("stories", "scripts")
"""The sources that generate text instead of reading it."""
N_EXAMPLES = 3
"""Examples that are kept of each reason."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its metadata."""

    text: str
    group: str | None = None
    """All documents of a group are in one split; None: the document is its own group."""
    path: str = ""
    license: str = UNKNOWN
    revision: str = ""
    """The commit of its repository."""
    bits: float | None = None
    """Exact -log2 of its probability, where the text was generated."""
    file: str = field(default="", compare=False)
    """The file that was read, if a record gives another `path`."""
    place: int = field(default=0, compare=False)
    """Line at which it begins or number of its record in the file, from 1; 0: the document is the whole file."""

    @property
    def name(self) -> str:
        """Its location, for messages."""
        return format_location(self.path, self.file, self.place)


def format_location(path: str, file: str, place: int) -> str:
    """Format the location of a document."""
    where = f"{file or path}:{place}" if place else file or path
    return f"{where} ({path})" if file and path else where


class Tally(Counter[str]):
    """Counts by reason, with the bytes and the first examples of each."""

    def __init__(self) -> None:
        super().__init__()
        self.n_bytes: Counter[str] = Counter()
        self.first: dict[str, list[str]] = {}
        self.unexpected_bytes = 0
        """Bytes that were left out without the user's intention."""

    def record(self, reason: str, n_bytes: int, name: str, count: int = 1, is_unexpected: bool = True) -> None:
        """Count something that is left out. is_unexpected: whether the user may have wanted to keep it."""
        self[reason] += count
        self.n_bytes[reason] += n_bytes
        self.unexpected_bytes += n_bytes if is_unexpected else 0
        names = self.first.setdefault(reason, [])
        if name and len(names) < N_EXAMPLES:
            names.append(name)

    def details(self) -> dict[str, dict[str, Any]]:
        """Return bytes and first examples by reason, for the manifest."""
        return {reason: {"bytes": self.n_bytes[reason], "first": self.first.get(reason, [])} for reason in sorted(self)}

    def describe(self) -> str:
        """Format all reasons in one line, each with its count, size and first examples."""
        return "; ".join(self._describe(reason) for reason, count in sorted(self.items()) if count) or "none"

    def _describe(self, reason: str) -> str:
        names = list(self.first.get(reason, ()))
        names += ["..."] if names and self[reason] > len(names) else []
        size = [format_size(self.n_bytes[reason])] if self.n_bytes[reason] else []
        more = ": ".join([*size, *([", ".join(names)] if names else [])])
        return replace_control_chars(f"{self[reason]:,} {reason}" + (f" ({more})" if more else ""))


class ReadTally(Tally):
    """Counts of one reading: documents that are left out, files that are skipped, and notes for the user."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_over = Tally()
        self.notes: list[str] = []


def count_dropped(dropped: Counter[str], reason: str, n_bytes: int, name: str, is_unexpected: bool = True) -> None:
    """Count something that is left out; a plain Counter gets only the count."""
    if isinstance(dropped, Tally):
        dropped.record(reason, n_bytes, name, is_unexpected=is_unexpected)
    else:
        dropped[reason] += 1


def drop_document(dropped: Counter[str], reason: str, document: Document, is_unexpected: bool = True) -> None:
    """Count a document that is left out."""
    count_dropped(dropped, reason, len(document.text.encode()), document.name, is_unexpected)


def count_skipped(dropped: Counter[str], reason: str, n_bytes: int, name: str, is_unexpected: bool = True) -> None:
    """Count a file that is not read."""
    if isinstance(dropped, ReadTally):
        dropped.passed_over.record(reason, n_bytes, name, 1, is_unexpected)


def add_note(dropped: Counter[str], note: str) -> None:
    """Add a note for the user, once."""
    if isinstance(dropped, ReadTally) and note not in dropped.notes:
        dropped.notes.append(note)


def format_size(n_bytes: int) -> str:
    """Format a size with its unit."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if n_bytes >= unit:
            return f"{n_bytes / unit:.1f} {name}"
    return f"{n_bytes} bytes"
