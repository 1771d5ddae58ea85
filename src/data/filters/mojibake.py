r"""Repair UTF-8 that was decoded as Windows-1252 or Latin-1, and detect broken stories.

`don’t` is `don\xe2\x80\x99t` in UTF-8; decoded as Windows-1252, it becomes `donâ€™t`. The repair maps such characters
back to their bytes where these form whole UTF-8 characters, so it is exact and reversible. If a byte is missing
(Windows-1252 has no character for the last byte of a closing quote), the story is dropped. The library ftfy would guess
there and changes more text.

Only sequences that begin with Â, Ã, â, ï or ð are repaired: those of punctuation, accents and emoji in English text.
Sequences directly after one may begin with other letters. With all possible first letters, correct text would change:
the É” of `CAFÉ”` could be a ɔ.
"""

import re


def _decode_wrongly(first: int, last: int) -> str:
    """Return the characters that bytes decode to, in Windows-1252 where it has one, and in Latin-1."""
    data = bytes(range(first, last + 1))
    return data.decode("cp1252", "ignore") + data.decode("latin-1")


AS_BYTE = {ord(char): byte for byte in range(0x80, 0xA0) for char in bytes([byte]).decode("cp1252", "ignore")}
"""Characters of Windows-1252 that differ from Latin-1, and their bytes."""
NEXT = f"[{_decode_wrongly(0x80, 0xBF)}]"
FIRST = f"[ÂÃ]{NEXT}|[âï]{NEXT}{{2}}|ð[{_decode_wrongly(0x90, 0xBF)}]{NEXT}{{2}}"
MOJIBAKE = re.compile(f"(?:{FIRST})(?:{FIRST}|[\xc2-\xdf]{NEXT})*")
LOST = re.compile(r"â€|ðŸ|[ÂÃ](?![^\W\d_])")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def repair_mojibake(text: str) -> str:
    """Undo wrong decoding of UTF-8 where the repair is exact, also if it happened several times."""
    if text.isascii():
        return text
    while True:
        repaired = MOJIBAKE.sub(lambda found: found[0].translate(AS_BYTE).encode("latin-1").decode(), text)
        if repaired == text:
            return text
        text = repaired


def rejection_reason(story: str) -> str | None:
    """Return why a story is rejected, or None.

    A story is cut off if it begins with a lower-case letter, or ends with a letter, a digit or a punctuation mark that
    does not end a sentence; `The End` is accepted.
    """
    if "\ufffd" in story:
        return "replacement character"
    if not story.isascii() and LOST.search(story):
        return "mojibake"
    if CONTROL.search(story):
        return "control character"
    first, end = story.lstrip("\"'“‘« \t\r\n")[:1], story.rstrip()[-7:].lower()
    unfinished = end[-1:].isalnum() or end.endswith((",", ";", ":", "-", "–", "—"))
    return "cut off" if first.islower() or (unfinished and end != "the end") else None
