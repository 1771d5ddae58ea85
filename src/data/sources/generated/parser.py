"""Recover the derivation of a generated document from its text alone.

The grammar's own functions do the reading: they run once more, and wherever they would draw, the text says which
option was taken. Options are prefix-free, so at most one fits, and a document has one derivation or none; finding it
takes as long as writing it did.

Bits by character. Within the options of a draw, a reader goes on letter by letter, and each letter rules out some of
those that were left: it costs log2 of the probability left before it over that left after it. By the chain rule these
sum to -log2 p of the option, and each is exactly -log2 P(letter | the document so far) under the grammar.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from src.data.sources.generated.grammar import Odds, Writer
from src.data.sources.generated.scripts import write_script
from src.data.sources.generated.stories import write_story

DOCUMENT_WRITERS: dict[str, Callable[[Writer], str]] = {"stories": write_story, "scripts": write_script}
"""What writes a document of each generated source; it returns the document's kind."""


class NotGenerated(ValueError):
    """The grammar does not write such a text."""


class Choice(NamedTuple):
    """An option that was taken at a draw, and where it stands in the text."""

    start: int
    end: int
    index: int
    bits: float


class Recall(NamedTuple):
    """Certain text that names something said before: a use, and the start of the nearest mention of the same."""

    start: int
    end: int
    source: int


@dataclass(frozen=True)
class Derivation:
    """What a document was made of, in the order of its text; places are counted in characters."""

    kind: str
    bits: float
    choices: list[Choice]
    recalls: list[Recall]
    bits_by_character: np.ndarray


def parse(compose: Callable[[Writer], str], text: str) -> Derivation:
    """Return the derivation of a text that `compose` writes, such as `DOCUMENT_WRITERS["stories"]`. Raises: NotGenerated."""
    reader = _Reader(text)
    kind = compose(reader)
    if reader.position < len(text):
        raise NotGenerated(f"the document ends at character {reader.position}, the text at {len(text)}")
    return Derivation(kind, reader.bits, reader.choices, reader.recalls, reader.bits_by_character)


class _Reader(Writer):
    """Takes the decisions that the text tells, and notes what they were."""

    def __init__(self, text: str) -> None:
        super().__init__(random=lambda: math.nan)
        self._target = text
        self.position = 0
        self.choices: list[Choice] = []
        self.recalls: list[Recall] = []
        self.bits_by_character = np.zeros(len(text))

    def write(self, text: str) -> None:
        if not self._target.startswith(text, self.position):
            raise NotGenerated(f"no {text!r} at character {self.position}")
        self.position += len(text)

    def recall(self, text: str) -> None:
        start = self.position
        self.write(text)
        source = _last_mention(self._target, text, start)
        if source is not None:
            self.recalls.append(Recall(start, self.position, source))

    def decide(self, options: Sequence[str], odds: Odds) -> int:
        start = self.position
        fitting = (index for index, option in enumerate(options) if self._target.startswith(option, start))
        index = next(fitting, None)
        if index is None:
            raise NotGenerated(f"none of {len(options)} options at character {start}")
        self.choices.append(Choice(start, start + len(options[index]), index, odds.bits[index]))
        for offset, bits in _bits_by_letter(tuple(options), odds, index):
            self.bits_by_character[start + offset] += bits
        return index


@lru_cache(maxsize=100_000)
def _bits_by_letter(options: tuple[str, ...], odds: Odds, index: int) -> list[tuple[int, float]]:
    """Return the letters of an option that rule others out, and the bits of each."""
    found: list[tuple[int, float]] = []
    left, mass = list(range(len(options))), 1.0
    for offset, letter in enumerate(options[index]):
        kept = [other for other in left if options[other][offset] == letter]
        if len(kept) < len(left):
            remaining = sum(2.0 ** -odds.bits[other] for other in kept)
            found.append((offset, math.log2(mass / remaining)))
            left, mass = kept, remaining
        if len(left) == 1:
            break
    return found


def _last_mention(text: str, name: str, before: int) -> int | None:
    """Return where a name stands last, as a word of its own, before a place in the text."""
    place = text.rfind(name, 0, before)
    while place >= 0 and not _is_word(text, place, place + len(name)):
        place = text.rfind(name, 0, place + len(name) - 1)
    return place if place >= 0 else None


def _is_word(text: str, start: int, end: int) -> bool:
    """Tell whether no letter, digit or underscore goes on before or after it."""
    return not (_JOINED.match(text, max(0, start - 1), start + 1) or _JOINED.match(text, end - 1, end + 1))


_JOINED = re.compile(r"\w\w")
