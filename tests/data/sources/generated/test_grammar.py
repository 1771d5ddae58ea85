"""The grammar is unambiguous and its probabilities are exact, on small grammars and on generated documents."""

import math
from collections.abc import Callable
from random import Random

import pytest

from src.data.sources.generated import generate_scripts, generate_stories
from src.data.sources.generated.grammar import Lexicon, TemplateWriter, Writer, assert_prefix_free, make_odds
from src.data.sources.generated.parser import DOCUMENT_WRITERS, NotGenerated, parse
from src.data.sources.generated.scripts import write_script
from src.data.sources.generated.stories import write_story
from tests.reference.derivations import Compose, derivations


def compose_small(writer: Writer) -> str:
    """Write a document of a grammar with every kind of draw: exclusions, families, branches, open lists."""
    lexicons = {
        "NAMES": Lexicon({"Ann": {"he": "she"}, "Ben": {"he": "he"}, "Eve": {"he": "she"}}),
        "FOODS/she": Lexicon(["figs", "nuts"]),
        "FOODS/he": Lexicon(["peas", "rice", "figs"]),
    }
    templates = TemplateWriter(writer, lexicons)
    templates.write_template("«a=NAMES» «very |»likes «b=NAMES-a». «^a.he» ")
    templates.bind("kind", templates.slots["b.he"])
    if templates.pick("sleeps", "eats «food=FOODS/kind»«, hot|, cold»") == 1:
        for _ in range(2):
            if templates.pick(".", " and «more=FOODS/kind»", odds=make_odds((2.0, 1.0))) == 0:
                return "short"
    templates.write_template("!")
    return "long"


def test_probabilities_of_all_texts_sum_to_one() -> None:
    found = list(derivations(compose_small))
    assert len({text for text, _ in found}) == len(found) > 200
    assert math.isclose(sum(2.0**-bits for _, bits in found), 1.0, rel_tol=1e-12)


def test_each_text_of_a_small_grammar_has_one_derivation() -> None:
    for text, bits in list(derivations(compose_small))[::7]:
        assert list(derivations(compose_small, text)) == [(text, bits)]
        assert parse(compose_small, text).bits == bits


def test_bits_by_character_equal_conditional_probabilities() -> None:
    """Bits are -log2 P(letter | prefix), from sums over all texts with the prefix."""
    probabilities = {text: 2.0**-bits for text, bits in derivations(compose_small)}

    def mass(beginning: str) -> float:
        return sum(p for text, p in probabilities.items() if text.startswith(beginning))

    for text in list(probabilities)[::17]:
        expected = [math.log2(mass(text[:end]) / mass(text[: end + 1])) for end in range(len(text))]
        assert parse(compose_small, text).bits_by_character == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("generate", "compose"), [(generate_stories, write_story), (generate_scripts, write_script)])
def test_each_document_has_one_derivation_with_the_recorded_bits(generate: Callable, compose: Compose) -> None:
    for document in generate(seed=11, max_bytes=60_000):
        ((text, bits),) = derivations(compose, document.text)
        assert text == document.text
        assert bits == document.bits


@pytest.mark.parametrize("compose", DOCUMENT_WRITERS.values(), ids=DOCUMENT_WRITERS)
def test_a_changed_document_has_no_derivation(compose: Compose) -> None:
    writer = Writer(Random(3).random)
    compose(writer)
    text = writer.text
    assert parse(compose, text).bits == writer.bits
    for changed in (text[:-1], text + " ", text.replace(" the ", " teh ", 1), ""):
        assert not list(derivations(compose, changed))
        with pytest.raises(NotGenerated):
            parse(compose, changed)


def test_draws_follow_their_odds() -> None:
    counts = [0, 0, 0]
    state = iter(range(10_000))
    odds = make_odds((5.0, 3.0, 2.0))
    writer = Writer(random=lambda: next(state) / 10_000)
    for _ in range(10_000):
        counts[writer.decide(("a", "b", "c"), odds, "")] += 1
    assert counts == [5000, 3000, 2000]
    assert [2**-bits for bits in odds.bits] == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("options", [("a", "ab"), ("same", "same"), ("", "a"), ("b", "a", "bc")])
def test_ambiguous_draws_are_an_error(options: tuple[str, ...]) -> None:
    with pytest.raises(AssertionError):
        assert_prefix_free(options)


def test_templates_bind_slots_and_reject_nested_draws() -> None:
    writer = Writer(random=lambda: 0.99)
    templates = TemplateWriter(writer, {"COLORS": Lexicon(["red", "blue"])})
    templates.write_template("«color=COLORS» and «x|«color»»; «^color»")
    assert writer.text == "blue and blue; Blue"
    with pytest.raises(AssertionError, match="draw inside a draw"):
        templates.write_template("«a|«b=COLORS»»")
