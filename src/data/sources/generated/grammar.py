"""A probabilistic grammar whose texts have a known probability.

Ordinary functions write a document from left to right. Where several continuations are possible, a draw selects one of
a few texts and writes it. The texts of a draw are prefix-free (asserted on every draw: none begins with another), so
the text determines its derivation, and the sum of -log2 p over the draws is its exact information content, in bits.

Templates keep the functions short. `«name»` writes the value of a slot, `«a|b|c»` draws one of the texts (the first is
the most likely), and `«slot=WORDS»` draws a word of a lexicon and binds it. `«slot=WORDS/other»` uses the lexicon
`WORDS/<value of other>`, `«slot=WORDS-a-b»` excludes the words bound to a and b, and `«^name»` capitalizes. The literal
text after a draw is part of its options, so `«very |»big` is a valid draw.
"""

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate, pairwise, takewhile

WORD_EXPONENT, CHOICE_EXPONENT = 0.4, 0.2
"""The k-th word of a lexicon, or the k-th text of a draw, has a probability proportional to k ** -exponent."""

Forms = Mapping[str, str]


@dataclass(frozen=True)
class GeneratedDocument:
    """A text, its information content -log2 p in bits, and its plot or task."""

    text: str
    bits: float
    kind: str


@dataclass(frozen=True)
class Odds:
    """The probabilities of a draw: their cumulative sums (without the last one) and -log2 of each."""

    cumulative: tuple[float, ...]
    bits: tuple[float, ...]


@cache
def make_odds(weights: tuple[float, ...]) -> Odds:
    """Normalize weights to odds."""
    total = sum(weights)
    probabilities = [weight / total for weight in weights]
    return Odds(tuple(accumulate(probabilities))[:-1], tuple(-math.log2(p) for p in probabilities))


@cache
def zipf_odds(n: int) -> Odds:
    """Return the odds of n options in order of decreasing probability."""
    return make_odds(tuple((rank + 1) ** -CHOICE_EXPONENT for rank in range(n)))


class Lexicon:
    """Words from the most to the least frequent, each with further forms that are bound with it."""

    def __init__(self, words: Mapping[str, Forms] | Iterable[str]):
        self.forms: dict[str, Forms] = dict(words) if isinstance(words, Mapping) else {word: {} for word in words}
        self._words = tuple(self.forms)
        self._subsets: dict[tuple[str, ...], tuple[tuple[str, ...], Odds]] = {}

    def without(self, excluded: tuple[str, ...]) -> tuple[tuple[str, ...], Odds]:
        """Return the other words and their odds; the weight of a word does not depend on the exclusions."""
        if excluded not in self._subsets:
            kept = [(word, rank) for rank, word in enumerate(self._words) if word not in excluded]
            weights = tuple((rank + 1) ** -WORD_EXPONENT for _, rank in kept)
            self._subsets[excluded] = tuple(word for word, _ in kept), make_odds(weights)
        return self._subsets[excluded]


class Writer:
    """Collects a document: certain text by `write`, drawn text by `pick`."""

    def __init__(self, random: Callable[[], float]):
        self._random = random
        self._parts: list[str] = []
        self.bits = 0.0

    @property
    def text(self) -> str:
        return "".join(self._parts)

    def write(self, text: str) -> None:
        """Append text that is certain."""
        self._parts.append(text)

    def recall(self, text: str) -> None:
        """Append text that is certain because it repeats a drawn value; the parser records it."""
        self.write(text)

    def decide(self, options: Sequence[str], odds: Odds, follow: str) -> int:
        """Return the index of the drawn option; the text `follow` is behind each of them."""
        return bisect_right(odds.cumulative, self._random())

    def pick(self, options: Sequence[str], odds: Odds, follow: str = "") -> int:
        """Draw one of prefix-free texts, write it, add its bits and return its index.

        follow: certain text behind each option, which is a part of it.
        """
        assert_prefix_free(tuple(options), follow)
        index = self.decide(options, odds, follow)
        self.bits += odds.bits[index]
        self.write(options[index] + follow)
        return index


@lru_cache(maxsize=100_000)
def assert_prefix_free(options: tuple[str, ...], follow: str = "") -> None:
    """Assert that no option begins with another; in sorted order, such a pair would be adjacent."""
    for shorter, longer in pairwise(sorted(option + follow for option in options)):
        assert shorter and not longer.startswith(shorter), f"{shorter!r} begins {longer!r}"


@dataclass(frozen=True)
class Slot:
    name: str
    is_capitalized: bool


Certain = str | tuple[str | Slot, ...]
"""Text without draws: as it is, or in parts where it has slots."""


@dataclass(frozen=True)
class Alternatives:
    options: tuple[Certain, ...]
    follow: str
    """The text behind the draw, up to the next slot or draw."""


@dataclass(frozen=True)
class WordDraw:
    slot: str
    lexicon: str
    family: str
    """The slot whose value completes the lexicon's name, or an empty string."""
    excluded: tuple[str, ...]
    follow: str


Piece = str | Slot | Alternatives | WordDraw

_MARK = re.compile(r"«((?:[^«»]|«[^«»]*»)*)»")
_SEPARATOR = re.compile(r"\|(?![^«]*»)")
_WORD_DRAW = re.compile(r"(\w+)=([A-Z_]+)(?:/(\w+))?((?:-\w+)*)")


@cache
def parse_template(template: str) -> tuple[Piece, ...]:
    """Split a template into certain text, slots and draws."""
    first, *rest = _MARK.split(template)
    pieces: list[Piece] = [first]
    for part, follow in zip(rest[::2], rest[1::2], strict=True):
        if "|" in part:
            pieces.append(Alternatives(tuple(_parse_certain(option) for option in _SEPARATOR.split(part)), follow))
        elif match := _WORD_DRAW.fullmatch(part):
            slot, lexicon, family, excluded = match.groups()
            pieces.append(WordDraw(slot, lexicon, family or "", tuple(excluded.split("-")[1:]), follow))
        else:
            pieces += [Slot(part.removeprefix("^"), part.startswith("^")), follow]
    return tuple(piece for piece in pieces if piece != "")


@cache
def _split_heads(templates: tuple[str, ...]) -> tuple[list[Certain], list[tuple[Piece, ...]]]:
    """Split each template before its first draw."""
    heads, tails = list[Certain](), list[tuple[Piece, ...]]()
    for pieces in map(parse_template, templates):
        head = list(takewhile(lambda piece: isinstance(piece, str | Slot), pieces))
        heads.append(_join_certain(head))
        tails.append(pieces[len(head) :])
    return heads, tails


@cache
def _parse_certain(template: str) -> Certain:
    pieces = parse_template(template)
    assert all(isinstance(piece, str | Slot) for piece in pieces), f"a draw inside a draw: {template}"
    return _join_certain(pieces)


def _join_certain(pieces: Iterable[Piece]) -> Certain:
    parts = tuple(piece for piece in pieces if isinstance(piece, str | Slot))
    return "".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else parts


class TemplateWriter:
    """Writes templates and keeps the values of slots."""

    def __init__(self, writer: Writer, lexicons: Mapping[str, Lexicon]):
        self.writer = writer
        self.lexicons = lexicons
        self.slots: dict[str, str] = {}
        self.drawn: set[str] = set()
        """Slots whose values were drawn, not derived from others; repeating one is a recall."""

    def bind(self, slot: str, value: str, forms: Forms | None = None) -> None:
        """Set a slot to a value, and `slot.form` to each of its forms."""
        self.slots[slot] = value
        for form, text in (forms or {}).items():
            self.slots[f"{slot}.{form}"] = text

    def fill(self, template: str) -> str:
        """Return the text of a template without draws."""
        return self._fill(_parse_certain(template))

    def write_template(self, *templates: str) -> None:
        """Write templates in sequence."""
        for template in templates:
            self._run(parse_template(template))

    def pick(self, *templates: str, odds: Odds | None = None) -> int:
        """Draw one of several templates by the text before their first draws, write it and return its index."""
        heads, tails = _split_heads(templates)
        index = self.writer.pick([self._fill(head) for head in heads], odds or zipf_odds(len(templates)))
        self._run(tails[index])
        return index

    def draw(self, slot: str, words: Sequence[str], before: str = "", after: str = "") -> str:
        """Draw one of the given words, bind it, and write it between two certain texts."""
        before = self.fill(before)
        index = self.writer.pick([before + word for word in words], zipf_odds(len(words)), self.fill(after))
        self.bind(slot, words[index])
        self.drawn.add(slot)
        return words[index]

    def excluded(self, piece: WordDraw, lexicon: Lexicon) -> tuple[str, ...]:
        """Return the words that a draw excludes."""
        return tuple(self.slots[slot] for slot in piece.excluded)

    def _run(self, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                self.writer.write(piece)
            elif isinstance(piece, Slot):
                (self.writer.recall if piece.name in self.drawn else self.writer.write)(self._value(piece))
            elif isinstance(piece, WordDraw):
                self._draw_word(piece)
            else:
                texts = [self._fill(option) for option in piece.options]
                self.writer.pick(texts, zipf_odds(len(texts)), piece.follow)

    def _draw_word(self, piece: WordDraw) -> None:
        lexicon = self.lexicons[f"{piece.lexicon}/{self.slots[piece.family]}" if piece.family else piece.lexicon]
        words, odds = lexicon.without(self.excluded(piece, lexicon))
        index = self.writer.pick(words, odds, piece.follow)
        self.bind(piece.slot, words[index], lexicon.forms[words[index]])
        self.drawn.add(piece.slot)

    def _fill(self, text: Certain) -> str:
        if isinstance(text, str):
            return text
        return "".join([part if isinstance(part, str) else self._value(part) for part in text])

    def _value(self, slot: Slot) -> str:
        value = self.slots[slot.name]
        return value[:1].upper() + value[1:] if slot.is_capitalized else value
