"""Drop what teaches nothing, and decide which documents are held out.

Cleaning is little on purpose: empty documents and exact duplicates go, line ends become LF, blank lines around a text
go. Licences are recorded and never filtered. Generated documents pass untouched, duplicates included: their exact
entropy holds for the text as drawn.

The split is by group (a repository, a package; a story is a group of its own), never by line, so that no text of a
held-out group is seen in training.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from src.config import UserError
from src.data.sources import Document

SPLITS = ("train", "val", "test")


def digest(text: str) -> bytes:
    """Hash a text to 16 bytes: enough that two of a billion documents meet with probability 1e-21."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def normalise(text: str) -> str:
    """Turn CRLF into LF and strip blank lines before and after the text, keeping the first line's indentation."""
    text = text.replace("\r\n", "\n")
    if not text.strip():
        return ""
    start = text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1
    end = text.find("\n", len(text.rstrip()))
    return text[start:] if end < 0 else text[start:end]


def clean(documents: Iterable[Document], dropped: Counter[str]) -> Iterator[Document]:
    """Yield normalised documents, each text once; count what goes in `dropped` by reason."""
    seen: set[bytes] = set()
    for document in documents:
        if document.bits is not None:
            yield document
            continue
        text = normalise(document.text)
        key = digest(text)
        if not text:
            dropped["empty"] += 1
        elif key in seen:
            dropped["duplicate"] += 1
        else:
            seen.add(key)
            yield replace(document, text=text)


def split_groups(
    sizes: dict[str, int], val_fraction: float, test_fraction: float, seed: int, corpus_name: str
) -> dict[str, str]:
    """Assign each group (name -> bytes) to train, val or test by its name and the seed alone.

    Groups are walked in the order of a hash, and each goes to the held-out split with more room left, if it fits
    there; the others are for training. So a split is filled close to its fraction and never beyond, and a group
    larger than that can only be training text. A first walk takes groups of up to half the room, so that a split
    holds several of them rather than one that happens to fit; the second fills what is left. Where all groups are
    too large, the smallest one is moved, since a split may not be empty.

    Raises: UserError for fewer than three groups, or fractions that leave no room.
    """
    if len(sizes) < len(SPLITS):
        raise UserError(
            f"data.{corpus_name}: {len(sizes)} group(s) of documents cannot fill train, val and test (none is shared); "
            "give more files, separate the texts of a .txt by lines <|endoftext|>, vary `source` in a .jsonl, "
            f"or raise data.{corpus_name}.max_bytes"
        )
    if min(val_fraction, test_fraction) <= 0 or val_fraction + test_fraction >= 1:
        raise UserError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}: "
            "both must be above 0 and together below 1"
        )
    total = sum(sizes.values())
    room = {"val": val_fraction * total, "test": test_fraction * total}
    order = sorted(sizes, key=lambda group: digest(f"{seed}\0{group}"))
    split = dict.fromkeys(order, "train")
    for share in (0.5, 1.0):
        for group in order:
            target = max(room, key=lambda name: room[name])
            if split[group] == "train" and sizes[group] <= share * room[target]:
                split[group] = target
                room[target] -= sizes[group]
    for target in room:
        counts = Counter(split.values())
        if not counts[target]:
            movable = [group for group in order if counts[split[group]] > 1]
            split[min(movable, key=lambda group: sizes[group])] = target
    return split
