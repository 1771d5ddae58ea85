"""The grammar is unambiguous and its probabilities are what it says: proven on small grammars and on real documents."""

import math
from collections.abc import Callable, Iterator, Sequence

import pytest

from src.data.embedded import generate_scripts, generate_stories
from src.data.embedded.grammar import Lexicon, Odds, Teller, Writer, assert_prefix_free, make_odds
from src.data.embedded.scripts import write_script
from src.data.embedded.stories import tell_story

Compose = Callable[[Writer], object]


class DeadEnd(Exception):
    """What has been written is no beginning of the text looked for."""


class Replay(Writer):
    """Takes the given decisions, then the first possible ones, and notes what else would have been possible.

    With a target, an option is possible if the target goes on with it; without one, every option is.
    """

    def __init__(self, decisions: Sequence[int], target: str | None = None):
        super().__init__(random=lambda: 0.0)
        self.decisions = list(decisions)
        self.target = target
        self.position = self.depth = 0
        self.branches: list[list[int]] = []

    def write(self, text: str) -> None:
        if self.target is not None and not self.target.startswith(text, self.position):
            raise DeadEnd
        self.position += len(text)
        super().write(text)

    def decide(self, options: Sequence[str], odds: Odds) -> int:
        assert len(options) == len(odds.bits) == len(odds.cumulative) + 1
        if self.depth == len(self.decisions):
            target, position = self.target, self.position
            possible = [i for i, text in enumerate(options) if target is None or target.startswith(text, position)]
            if not possible:
                raise DeadEnd
            self.branches += [[*self.decisions, other] for other in possible[1:]]
            self.decisions.append(possible[0])
        self.depth += 1
        return self.decisions[self.depth - 1]


def derivations(compose: Compose, target: str | None = None) -> Iterator[tuple[str, float]]:
    """Yield text and bits of every derivation (that yields the target), by exhaustive depth-first search."""
    stack: list[list[int]] = [[]]
    while stack:
        writer = Replay(stack.pop(), target)
        try:
            compose(writer)
        except DeadEnd:
            pass
        else:
            if target is None or writer.text == target:
                yield writer.text, writer.bits
        stack += writer.branches


def compose_small(writer: Writer) -> None:
    """A grammar with every kind of draw: words with exclusion, families, branches, open lists."""
    lexicons = {
        "NAMES": Lexicon({"Ann": {"he": "she"}, "Ben": {"he": "he"}, "Eve": {"he": "she"}}),
        "FOODS/she": Lexicon(["figs", "nuts"]),
        "FOODS/he": Lexicon(["peas", "rice", "figs"]),
    }
    teller = Teller(writer, lexicons)
    teller.say("«a=NAMES» «very |»likes «b=NAMES-a». «^a.he» ")
    teller.bind("kind", teller.slots["b.he"])
    if teller.pick("sleeps", "eats «food=FOODS/kind»«, hot|, cold»") == 1:
        for _ in range(2):
            if teller.pick(".", " and «more=FOODS/kind»", odds=make_odds((2.0, 1.0))) == 0:
                return
    teller.say("!")


def test_probabilities_of_all_texts_sum_to_one() -> None:
    found = list(derivations(compose_small))
    assert len({text for text, _ in found}) == len(found) > 200
    assert math.isclose(sum(2.0**-bits for _, bits in found), 1.0, rel_tol=1e-12)


def test_each_text_of_a_small_grammar_has_one_derivation() -> None:
    for text, bits in list(derivations(compose_small))[::7]:
        assert list(derivations(compose_small, text)) == [(text, bits)]


@pytest.mark.parametrize(("generate", "compose"), [(generate_stories, tell_story), (generate_scripts, write_script)])
def test_each_document_has_one_derivation_with_the_recorded_bits(generate: Callable, compose: Compose) -> None:
    kinds = set()
    for document in generate(seed=11, max_bytes=150_000):
        kinds.add(document.kind)
        ((text, bits),) = derivations(compose, document.text)
        assert text == document.text
        assert bits == document.bits
    assert len(kinds) >= 12


def test_a_changed_document_has_no_derivation() -> None:
    text = next(generate_stories(seed=0, max_bytes=1)).text
    assert not list(derivations(tell_story, text[:-1]))
    assert not list(derivations(tell_story, text + " "))
    assert not list(derivations(tell_story, text.replace(" the ", " teh ", 1)))


def test_draws_follow_their_odds() -> None:
    counts = [0, 0, 0]
    state = iter(range(10_000))
    odds = make_odds((5.0, 3.0, 2.0))
    writer = Writer(random=lambda: next(state) / 10_000)
    for _ in range(10_000):
        counts[writer.decide(("a", "b", "c"), odds)] += 1
    assert counts == [5000, 3000, 2000]
    assert [2**-bits for bits in odds.bits] == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("options", [("a", "ab"), ("same", "same"), ("", "a"), ("b", "a", "bc")])
def test_ambiguous_draws_are_refused(options: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        assert_prefix_free(options)


def test_templates_bind_fill_and_refuse_draws_inside_draws() -> None:
    writer = Writer(random=lambda: 0.99)
    teller = Teller(writer, {"COLORS": Lexicon(["red", "blue"])})
    teller.say("«color=COLORS» and «x|«color»»; «^color»")
    assert writer.text == "blue and blue; Blue"
    with pytest.raises(AssertionError, match="draw inside a draw"):
        teller.say("«a|«b=COLORS»»")
