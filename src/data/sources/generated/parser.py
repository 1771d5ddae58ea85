"""Recover the derivation of a generated document from its text alone.

The functions of the grammar run again; at each draw, the text determines the option. Options are prefix-free, so at
most one fits, and a document has one derivation or none. Parsing takes as long as generating.

Bits by character: within the options of a draw, each letter excludes some of the remaining options. Its bits are log2 of
the remaining probability before it over that after it. By the chain rule these sum to -log2 p of the option, and each
is exactly -log2 P(letter | the document so far) under the grammar.
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
"""The functions that write a document of each generated source; they return the document's kind."""


class NotGenerated(ValueError):
    """The grammar does not generate the text."""


class Choice(NamedTuple):
    """A drawn option and its range in the text."""

    start: int
    end: int
    index: int
    bits: float


class Recall(NamedTuple):
    """Certain text that repeats a drawn value: its range, and the start of the nearest earlier mention."""

    start: int
    end: int
    source: int


@dataclass(frozen=True)
class Derivation:
    """The choices of a document in the order of its text; positions are in characters."""

    kind: str
    bits: float
    choices: list[Choice]
    recalls: list[Recall]
    bits_by_character: np.ndarray


def parse(compose: Callable[[Writer], str], text: str) -> Derivation:
    """Parse a text of `compose`, which is one of `DOCUMENT_WRITERS`. Raises: NotGenerated."""
    reader = _Reader(text)
    kind = compose(reader)
    if reader.position < len(text):
        raise NotGenerated(f"the document ends at character {reader.position}, the text at {len(text)}")
    return Derivation(kind, reader.bits, reader.choices, reader.recalls, reader.bits_by_character)


class _Reader(Writer):
    """Takes the options that the text determines, and records them."""

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

    def decide(self, options: Sequence[str], odds: Odds, follow: str) -> int:
        start, options = self.position, [option + follow for option in options]
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
    """Return the offsets of an option's letters that exclude other options, with the bits of each."""
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
    """Return the last position of a name, as a whole word, before a position in the text, or None."""
    place = text.rfind(name, 0, before)
    while place >= 0 and not _is_word(text, place, place + len(name)):
        place = text.rfind(name, 0, place + len(name) - 1)
    return place if place >= 0 else None


def _is_word(text: str, start: int, end: int) -> bool:
    """Return whether a range is a whole word: no letter, digit or underscore directly before or after it."""
    return not (_JOINED.match(text, max(0, start - 1), start + 1) or _JOINED.match(text, end - 1, end + 1))


_JOINED = re.compile(r"\w\w")
