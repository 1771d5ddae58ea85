"""Text is normalized, and empty documents are dropped."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.document import Document
from src.data.filters.text_cleaning import clean_documents, normalize_text


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
def test_normalize_text(text: str, expected: str) -> None:
    assert normalize_text(text) == expected


@given(st.text(alphabet=" \t\nab"))
def test_only_blank_lines_are_stripped(text: str) -> None:
    lines = text.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    assert normalize_text(text) == "\n".join(lines)


def test_empty_documents_are_dropped() -> None:
    dropped: Counter[str] = Counter()
    documents = [Document("a\n"), Document(" \n"), Document("\r\na"), Document("b", group="g")]
    assert list(clean_documents(documents, dropped)) == [Document("a"), Document("a"), Document("b", group="g")]
    assert dropped == {"empty": 1}


def test_generated_documents_are_unchanged() -> None:
    documents = [Document("\na\n", bits=3.0) for _ in range(3)]
    assert list(clean_documents(documents, Counter())) == documents
