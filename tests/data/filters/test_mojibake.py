"""Mojibake is repaired exactly or not at all, correct text is unchanged, and broken stories are rejected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data.filters.mojibake import rejection_reason, repair_mojibake

LEAD_BYTES = "ÂÃâïð"
CORRECT_TEXTS = st.characters(codec="utf-8", exclude_characters=LEAD_BYTES)
REPAIRABLE = st.one_of(
    st.characters(max_codepoint=0xFF, exclude_characters=LEAD_BYTES),
    st.characters(min_codepoint=0x2000, max_codepoint=0x2FFF),
    st.characters(min_codepoint=0xF000, max_codepoint=0xFFFF),
    st.characters(min_codepoint=0x10000, max_codepoint=0x3FFFF),
)


def read_as_windows_1252(text: str) -> str:
    """Decode UTF-8 wrongly, as browsers do: as Windows-1252, and bytes that it does not have as Latin-1."""
    return "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())


@given(st.text(REPAIRABLE), st.integers(1, 3))
def test_mojibake_is_repaired_exactly(text: str, times: int) -> None:
    wrong = text
    for _ in range(times):
        wrong = read_as_windows_1252(wrong)
    assert repair_mojibake(wrong) == text
    assert repair_mojibake(text.encode().decode("latin-1")) == text


@given(st.text(CORRECT_TEXTS))
def test_correct_text_is_unchanged(text: str) -> None:
    assert repair_mojibake(text) == text


@pytest.mark.parametrize(
    "text", ["CAFÉ”", "MARQUÉ…", "«SÖ»", "naïve…", "SÃO PAULO, à la carte", "¡Âme!", "don’t — “no”"]
)
def test_text_similar_to_mojibake_is_unchanged(text: str) -> None:
    assert repair_mojibake(text) == text
    assert rejection_reason(f"So: {text}.") is None


@pytest.mark.parametrize(
    ("story", "flaw"),
    [
        ("Tim ran home.", None),
        ('  \n"Go!" said Tim. "I will"', None),
        ("They lived happily.\nThe End", None),
        ("«Él» is he… 🙂", None),
        ("", None),
        ("u don't have to.", "cut off"),
        ("“and then,” she said.", "cut off"),
        ("They went to the", "cut off"),
        ("He had 3", "cut off"),
        ("The lesson is:\n", "cut off"),
        ("The friend", "cut off"),
        ("Tim \ufffd ran.", "replacement character"),
        (repair_mojibake("Tim ï¿½ ran."), "replacement character"),
        ("Tim â€œran home", "mojibake"),
        ("â€œRun!â€ said Tim.", "mojibake"),
        ("Tim Ã ran.", "mojibake"),
        ("It costs Â 5.", "mojibake"),
        ("Tim\x07 ran.", "control character"),
        ("Tim\x85 ran.", "control character"),
        ("Tim\tran\r\nhome.", None),
    ],
)
def test_broken_stories_are_rejected(story: str, flaw: str | None) -> None:
    assert rejection_reason(story) == flaw
