"""What is dropped of a text, and what of a corpus."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.filters.text_cleaning import clean, normalise
from src.data.sources.registry import Document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\r\n", "a\nb"),
        ("\n \n\t\n  indented\n\nend  \n \n", "  indented\n\nend  "),
        ("a\rb", "a\rb"),
        (" \n\t\n", ""),
        ("", ""),
        ("x", "x"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(alphabet=" \t\nab"))
def test_normalise_strips_blank_lines_only(text: str) -> None:
    lines = text.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    assert normalise(text) == "\n".join(lines)


def test_empty_documents_go() -> None:
    dropped: Counter[str] = Counter()
    documents = [Document("a\n"), Document(" \n"), Document("\r\na"), Document("b", group="g")]
    assert list(clean(documents, dropped)) == [Document("a"), Document("a"), Document("b", group="g")]
    assert dropped == {"empty": 1}


def test_generated_documents_pass_untouched() -> None:
    documents = [Document("\na\n", bits=3.0) for _ in range(3)]
    assert list(clean(documents, Counter())) == documents
