r"""Repair UTF-8 that was once read as Windows-1252 or Latin-1, and find what is broken in a story.

`don’t` is `don\xe2\x80\x99t` in UTF-8; read as Windows-1252 and written again, it has become `donâ€™t`. The way back is
to take such characters for the bytes they were, and we go it only where they make whole characters of UTF-8: so it is
exact, and reading the result wrongly once more gives what was there. Where a byte was lost, as often that of the
closing quote, for which Windows-1252 has no sign, the story is dropped. The library ftfy would guess there, and changes
more than this; for the exact part it would be a dependency for ten lines.

Only sequences that begin with Â, Ã, â, ï or ð are taken, as those of signs, accents and emoji in English text do; what
follows at once may begin otherwise. With every letter that can begin one, honest text would suffer: the É” of `CAFÉ”`
could be a ɔ.
"""

import re


def _misread(first: int, last: int) -> str:
    """List what bytes have been read as: in Windows-1252 where it has a character, and in Latin-1."""
    data = bytes(range(first, last + 1))
    return data.decode("cp1252", "ignore") + data.decode("latin-1")


AS_BYTE = {ord(char): byte for byte in range(0x80, 0xA0) for char in bytes([byte]).decode("cp1252", "ignore")}
"""Where Windows-1252 differs from Latin-1, whose characters have the numbers of their bytes."""
NEXT = f"[{_misread(0x80, 0xBF)}]"
FIRST = f"[ÂÃ]{NEXT}|[âï]{NEXT}{{2}}|ð[{_misread(0x90, 0xBF)}]{NEXT}{{2}}"
MOJIBAKE = re.compile(f"(?:{FIRST})(?:{FIRST}|[\xc2-\xdf]{NEXT})*")
LOST = re.compile(r"â€|ðŸ|[ÂÃ](?![^\W\d_])")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


def repair_mojibake(text: str) -> str:
    """Undo a wrong reading of UTF-8 wherever that is exact, however often it happened."""
    if text.isascii():
        return text
    while True:
        repaired = MOJIBAKE.sub(lambda found: found[0].translate(AS_BYTE).encode("latin-1").decode(), text)
        if repaired == text:
            return text
        text = repaired


def rejection_reason(story: str) -> str | None:
    """Name what is broken in a story, or return None.

    A story is cut off if it begins with a small letter, or if it ends with a letter, a digit or a sign that asks for
    more; `The End` is an end.
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
