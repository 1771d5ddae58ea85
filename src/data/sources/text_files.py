"""Split plain text into documents and decode them.

Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark. Documents end at a separator. A separator with a letter, such
as `<|endoftext|>` or `</s>`, separates anywhere in a line, with the white space beside it. One without a letter, such
as `---`, has to be on its own line.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from src.data.document import count_dropped
from src.data.sources.compression import DamagedFile

SEPARATOR = "<|endoftext|>"
MAX_DOCUMENT_BYTES = 32_000_000
"""Maximum bytes of a document; larger ones are left out to limit memory."""
BYTE_ORDER_MARKS = (  # longest first: the mark of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, ""),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks and their encodings; empty for UTF-8, which needs no conversion."""
BOMS = tuple(mark for mark, _ in BYTE_ORDER_MARKS)
TOKEN = re.compile(r"<\|[^|<>\n]{1,30}\|>|</?(?:s|eo[sdt]|bos|sep|pad|endoftext)>|\[(?:EO[SDT]|BOS|SEP|CLS)\]", re.I)
"""Separators that tokenizers and data sets use."""
TAG = re.compile(r"<\|[^|<>\n]{1,30}\|>|</?[A-Za-z][\w-]{0,30}>|\[/?[A-Z_]{2,20}\]")
"""Tags that do not occur in prose, but often in code."""
MARK_LINE = re.compile(r"(?m)^[ \t]*(?P<mark>([-=*_#~%@+])(?: ?\2){2,39}|%)[ \t\r]*$")
MARK_BEGINS = re.compile(r"\n[ \t]*[-=*_#~%@+]")
MARK_END = re.compile(rb"[ \t]*(?:\r?\n)?")
FREQUENT_MARK_COUNT = 5
"""Occurrences of a mark in a corpus from which it is reported."""


class Part(NamedTuple):
    """A document within a file."""

    data: bytes
    """The text; incomplete if `n_bytes` exceeds `MAX_DOCUMENT_BYTES`."""
    n_bytes: int
    line: int


def to_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Convert text with a byte order mark to UTF-8 without one. Raises: DamagedFile."""
    chunks = iter(chunks)
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 4:
            break
    mark, encoding = next(((mark, name) for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), (b"", ""))
    head = head[len(mark) :]
    if not encoding:
        yield head
        yield from chunks
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        yield decoder.decode(head).encode()
        for chunk in chunks:
            yield decoder.decode(chunk).encode()
        decoder.decode(b"", final=True)
    except UnicodeError:
        raise DamagedFile(f"not {encoding[:6].upper()}, as its byte order mark says") from None


def read_whole(chunks: Iterable[bytes]) -> Part:
    """Return a file as one document."""
    data, n_bytes = bytearray(), 0
    for chunk in chunks:
        n_bytes += len(chunk)
        if n_bytes <= MAX_DOCUMENT_BYTES:
            data += chunk
    return Part(bytes(data), n_bytes, 0)


def is_inline(separator: str) -> bool:
    """Return whether a separator may be within a line."""
    return any(map(str.isalnum, separator))


def split_documents(chunks: Iterable[bytes], separator: str) -> Iterator[Part]:
    """Yield the documents of a file. A file without a separator is one document with line 0."""
    mark, inline = separator.encode(), is_inline(separator)
    pattern = re.compile(re.escape(mark)) if inline else re.compile(rb"(?m)^[ \t]*" + re.escape(mark) + rb"[ \t\r]*$")
    rest, n_bytes, separated = b"", 0, False
    start = line = 1  # first line of the document, and of the text that is not searched yet

    def part(data: bytes, is_last: bool = False) -> Part:
        whole = n_bytes + len(data)
        first = start if separated or not is_last else 0
        if separated and (ended := MARK_END.match(data)):  # the rest of the separator's line
            data = data[ended.end() :]
            first += ended[0].count(b"\n")
        return Part(data if is_last else data.rstrip(b" \t"), whole, first)

    for chunk in chain(chunks, [None]):  # None marks the end
        rest += chunk or b""
        end = len(rest) if inline or chunk is None else rest.rfind(b"\n") + 1
        *parts, left = pattern.split(rest[:end])
        for data in parts:
            yield part(data)
            line += data.count(b"\n")
            start, n_bytes, separated = line, 0, True
        rest = left + rest[end:]
        if (
            len(rest) > MAX_DOCUMENT_BYTES + 2 * len(mark) and chunk is not None
        ):  # too large, so drop all but a partial separator
            cut = len(rest) - 2 * len(mark)
            line += rest.count(b"\n", 0, cut)
            n_bytes += cut
            rest = rest[cut:]
    if rest.strip() or n_bytes or not separated:  # no empty document after the last separator
        yield part(rest, is_last=True)


def split_text(text: str, separator: str) -> list[str]:
    """Split a text in memory into its documents."""
    whole = (part.data.decode("utf-8", "surrogatepass") for part in split_documents([text.encode()], separator))
    return [piece for piece in whole if piece.strip()]


def decode(raw: bytes, dropped: Counter[str], name: str = "", n_bytes: int | None = None) -> str | None:
    """Decode a text; if that fails, count the reason and return None. n_bytes: its size, if `raw` is incomplete."""
    size = len(raw) if n_bytes is None else n_bytes
    if size > MAX_DOCUMENT_BYTES:
        count_dropped(dropped, f"larger than {MAX_DOCUMENT_BYTES / 1e6:g} MB", size, name)
        return None
    if raw.startswith(BOMS):
        try:
            raw = b"".join(to_utf8([raw]))
        except DamagedFile as error:
            count_dropped(dropped, str(error), size, name)
            return None
    if b"\0" in raw:
        count_dropped(dropped, "binary", size, name)
        return None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        count_dropped(dropped, "not UTF-8", size, name)
        return None


def count_marks(text: str, marks: Counter[str], is_prose: bool) -> None:
    """Count marks that look like separators of documents."""
    if "<" in text or "[" in text:
        marks.update((TAG if is_prose else TOKEN).findall(text))
    if is_prose and MARK_BEGINS.search(text):  # a fast test that nearly all documents fail
        marks.update(match["mark"] for match in MARK_LINE.finditer(text))
