"""Reference implementation of deduplication and splits, with all documents in memory."""

import hashlib

from src.data.document import Document


def reference_split_assignments(
    documents: list[Document], val_fraction: float, test_fraction: float, seed: int
) -> list[str]:
    """Return train, val, test or duplicate for each document."""
    seen: set[str] = set()
    groups: list[str | None] = []
    for document in documents:
        again = document.bits is None and document.text in seen
        if document.bits is None:
            seen.add(document.text)
        name = document.group
        if name is None:
            text = hashlib.blake2b(document.text.encode(), digest_size=16).hexdigest()
            name = text if document.bits is None else str(len(groups))
        groups.append(None if again else name)
    sizes: dict[str, int] = {}
    for document, group in zip(documents, groups, strict=True):
        if group is not None:
            sizes[group] = sizes.get(group, 0) + len(document.text.encode())
    split = reference_split(sizes, val_fraction, test_fraction, seed)
    return ["duplicate" if group is None else split[group] for group in groups]


def reference_split(sizes: dict[str, int], val_fraction: float, test_fraction: float, seed: int) -> dict[str, str]:
    """Assign each group (name -> bytes) to a split, in the order of a hash of its name and the seed."""

    order = sorted(sizes, key=lambda name: hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest())
    total = sum(sizes.values())
    remaining = {"val": val_fraction * total, "test": test_fraction * total}
    split = dict.fromkeys(order, "train")
    for share in (0.5, 1.0):
        for name in order:
            target = max(remaining, key=lambda part: remaining[part])
            if split[name] == "train" and sizes[name] <= share * remaining[target]:
                split[name] = target
                remaining[target] -= sizes[name]
    for target in remaining:
        counts = {part: list(split.values()).count(part) for part in ("train", "val", "test")}
        if not counts[target]:
            movable = [name for name in order if counts[split[name]] > 1]
            split[min(movable, key=lambda name: sizes[name])] = target
    return split
