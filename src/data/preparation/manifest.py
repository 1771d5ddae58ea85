"""The manifest's entries, counted from the complete document store and token files."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.data.dataset import CARD, MANIFEST
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.splits import SPLITS
from src.runtime.atomic_files import file_sha256

MAX_GROUPS = 1000
"""Named groups that are listed; if there are more, only <corpus>.origins.jsonl has them."""
CHUNK = 1 << 22


def describe_corpus(store: DocumentStore, split_assignment: np.ndarray, stem: Path, n_ids: int) -> dict[str, Any]:
    """Count the contents of the token files of a corpus, by split, license and group."""
    totals = _sum_by_split(store, split_assignment)
    splits = {}
    for number, name in enumerate(SPLITS):
        documents, n_bytes, words = (int(totals[key][number]) for key in ("documents", "bytes", "words"))
        bits = float(totals["bits"][number])
        counts = _count_tokens(stem.with_name(f"{stem.name}_{name}.npy"), n_ids)
        n_tokens = int(counts.sum())
        splits[name] = {
            "documents": documents,
            "bytes": n_bytes,
            "words": words,
            "tokens": n_tokens,
            "unigram_loss": unigram_loss(counts),
            "bytes_per_token": n_bytes / n_tokens,
            "tokens_per_word": n_tokens / max(1, words),
            "floor_bits_per_byte": None if np.isnan(bits) or not n_bytes else bits / n_bytes,
        }
    licenses, groups = _describe_origins(store, split_assignment)
    return {
        "documents": int(totals["documents"].sum()),
        "bytes": int(totals["bytes"].sum()),
        "splits": splits,
        "licences": licenses,
        "groups": groups,
    }


def _sum_by_split(store: DocumentStore, split_assignment: np.ndarray) -> dict[str, np.ndarray]:
    """Sum up documents, bytes, words and bits of each split."""
    totals = {key: np.zeros(len(SPLITS)) for key in ("documents", "bytes", "words", "bits")}
    for first, records, sizes in store.blocks():
        split = split_assignment[first : first + len(records)]
        left = split >= 0
        weights = {
            "documents": None,
            "bytes": sizes[left],
            "words": records["words"][left],
            "bits": records["bits"][left],
        }
        for key, weight in weights.items():
            totals[key] += np.bincount(split[left], weight, minlength=len(SPLITS))
    return totals


def unigram_loss(counts: np.ndarray) -> float:
    """Return the entropy of the token frequencies, in nats per token. counts: (n_ids,)."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log(p)).sum())


def _count_tokens(path: Path, n_ids: int) -> np.ndarray:
    """Count each token id of a file: (n_ids,) int64."""
    tokens = np.load(path, mmap_mode="r")
    counts = np.zeros(n_ids, dtype=np.int64)
    with path.open("rb") as handle:  # pages of a memmap would count as the process's memory
        handle.seek(tokens.offset)
        while len(chunk := np.fromfile(handle, tokens.dtype, CHUNK)):
            counts += np.bincount(chunk, minlength=n_ids)
    return counts


def _describe_origins(
    store: DocumentStore, split_assignment: np.ndarray
) -> tuple[dict[str, int], dict[str, Any] | None]:
    """Count documents by license, and describe each named group, or None if there are too many."""
    licenses: Counter[str] = Counter()
    groups: dict[str, Any] | None = {}
    for origin, documents, n_bytes in _count_by_origin(store, split_assignment):
        licenses[origin["licence"]] += int(documents.sum())
        if groups is None or "group" not in origin:
            continue
        found = [SPLITS[number] for number in np.flatnonzero(documents).tolist()]  # one, unless split by position
        entry = groups.setdefault(origin["group"], {"split": found[0], "documents": 0, "bytes": 0, "licences": []})
        known = entry["split"].split(" and ")
        entry["split"] = " and ".join([*known, *(split for split in found if split not in known)])
        entry["documents"] += int(documents.sum())
        entry["bytes"] += int(n_bytes.sum())
        if origin["licence"] not in entry["licences"]:
            entry["licences"].append(origin["licence"])
        if "revision" in origin:
            entry["revision"] = origin["revision"]
        if len(groups) > MAX_GROUPS:
            groups = None
    return dict(sorted(licenses.items())), groups and dict(sorted(groups.items()))


def _count_by_origin(
    store: DocumentStore, split_assignment: np.ndarray
) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Yield each origin with its documents and bytes in each split; an origin may be yielded in several parts."""
    lines = store.origins()
    number, origin = -1, {}
    for first, records, sizes in store.blocks():
        lowest = int(records["origin"][0])
        split = split_assignment[first : first + len(records)]
        left = split >= 0
        cells = (records["origin"][left].astype(np.int64) - lowest) * len(SPLITS) + split[left]
        shape = int(records["origin"][-1]) - lowest + 1, len(SPLITS)
        documents = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
        n_bytes = np.bincount(cells, sizes[left], minlength=shape[0] * shape[1]).reshape(shape)
        for row in np.flatnonzero(documents.any(axis=1)).tolist():
            while number < lowest + row:
                number, origin = number + 1, next(lines)
            yield origin, documents[row], n_bytes[row]


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """List the files of the data with size and hash; the manifest and the card are written from this list."""
    paths = sorted(path for path in folder.iterdir() if path.name not in (MANIFEST, CARD))
    return {path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for path in paths}


def get_versions() -> dict[str, str]:
    """Return the versions of Python and the packages that prepared the data."""
    packages = ("advanced-code-model", "numpy", "rensa", "tokenizers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
