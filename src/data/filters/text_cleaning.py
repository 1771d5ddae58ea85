"""Normalize line ends and drop empty documents.

Line ends become LF, and blank lines around a text are removed. Exact duplicates are found after reading (`splits.py`).
Generated documents are unchanged, because their exact entropy holds for the text as drawn.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from src.data.document import Document, drop_document


def normalize_text(text: str) -> str:
    """Turn CRLF into LF and strip blank lines before and after the text, keeping the first line's indentation."""
    text = text.replace("\r\n", "\n")
    if not text.strip():
        return ""
    start = text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1
    end = text.find("\n", len(text.rstrip()))
    return text[start:] if end < 0 else text[start:end]


def clean_documents(documents: Iterable[Document], dropped: Counter[str]) -> Iterator[Document]:
    """Yield normalized documents; count empty ones in `dropped`."""
    for document in documents:
        if document.bits is not None:
            yield document
        elif text := normalize_text(document.text):
            yield replace(document, text=text)
        else:
            drop_document(dropped, "empty", document)
