"""The parser recovers the draws of the generator, and the distances of repeated names."""

import re
from itertools import pairwise

import numpy as np
import pytest

from src.data.sources.generated import GeneratedDocument, generate_scripts, generate_stories
from src.data.sources.generated.parser import DOCUMENT_WRITERS, Derivation, parse

GENERATORS = {"stories": generate_stories, "scripts": generate_scripts}
Parsed = list[tuple[GeneratedDocument, Derivation]]


@pytest.fixture(scope="module", params=GENERATORS)
def parsed(request: pytest.FixtureRequest) -> Parsed:
    documents = GENERATORS[request.param](seed=21, max_bytes=250_000)
    return [(document, parse(DOCUMENT_WRITERS[request.param], document.text)) for document in documents]


def test_the_parsed_derivation_equals_the_drawn_one(parsed: Parsed) -> None:
    assert len({document.kind for document, _ in parsed}) >= 12
    for document, derivation in parsed:
        assert (derivation.kind, derivation.bits) == (document.kind, document.bits)
        assert sum(choice.bits for choice in derivation.choices) == pytest.approx(document.bits, abs=1e-9)
        assert all(a.start < a.end <= b.start for a, b in pairwise(derivation.choices))


def test_bits_of_a_choice_fall_on_its_characters(parsed: Parsed) -> None:
    for document, derivation in parsed:
        bits = derivation.bits_by_character
        assert len(bits) == len(document.text) and bits.min() >= 0
        assert bits.sum() == pytest.approx(document.bits, abs=1e-9)
        for choice in derivation.choices:
            assert bits[choice.start : choice.end].sum() == pytest.approx(choice.bits, abs=1e-9)


def test_recalls_repeat_earlier_text_at_zero_bits(parsed: Parsed) -> None:
    for document, derivation in parsed:
        text = document.text
        for start, end, source in derivation.recalls:
            name = text[start:end]
            assert text.startswith(name, source) and source + len(name) <= start
            assert derivation.bits_by_character[start:end].sum() == 0
            assert not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text[source + 1 : start]), (
                "there is a nearer mention"
            )


def test_recall_distances_range_from_a_line_to_thousands_of_characters(parsed: Parsed) -> None:
    distances = np.array([start - source for _, derivation in parsed for start, _, source in derivation.recalls])
    edges = [1, 64, 256, 1024, 4096, 16384]
    counts = np.histogram(distances, edges)[0]
    print(f"{len(parsed)} documents, recalls by distance {edges}: {counts.tolist()}")
    assert counts.sum() == len(distances) > 10 * len(parsed)
    assert (counts[:4] > 100).all() and counts[4] > 0
