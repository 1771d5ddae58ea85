"""What the manifest says of a corpus, counted from the spool and the token files once they are complete."""

import importlib.metadata
import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from src.data.dataset import CARD, MANIFEST
from src.data.preparation.document_store import Spool
from src.data.preparation.splits import SPLITS
from src.runtime.atomic_files import sha256_of

MOST_GROUPS = 1000
"""Groups with a name that are listed; where there are more, <corpus>.origins.jsonl has them alone."""
CHUNK = 1 << 22


def describe_corpus(spool: Spool, fate: np.ndarray, stem: Path, n_ids: int) -> dict[str, Any]:
    """Count what is in the token files of a corpus: by split, by licence, by group."""
    totals = _totals(spool, fate)
    splits = {}
    for number, name in enumerate(SPLITS):
        documents, n_bytes, words = (int(totals[key][number]) for key in ("documents", "bytes", "words"))
        bits = float(totals["bits"][number])
        counts = _token_counts(stem.with_name(f"{stem.name}_{name}.npy"), n_ids)
        n_tokens = int(counts.sum())
        p = counts[counts > 0] / n_tokens
        splits[name] = {
            "documents": documents,
            "bytes": n_bytes,
            "words": words,
            "tokens": n_tokens,
            "unigram_loss": float(-(p * np.log(p)).sum()),
            "bytes_per_token": n_bytes / n_tokens,
            "tokens_per_word": n_tokens / max(1, words),
            "floor_bits_per_byte": None if np.isnan(bits) or not n_bytes else bits / n_bytes,
        }
    licences, groups = _origins(spool, fate)
    return {
        "documents": int(totals["documents"].sum()),
        "bytes": int(totals["bytes"].sum()),
        "splits": splits,
        "licences": licences,
        "groups": groups,
    }


def _totals(spool: Spool, fate: np.ndarray) -> dict[str, np.ndarray]:
    """Sum up documents, bytes, words and bits of each split."""
    totals = {key: np.zeros(len(SPLITS)) for key in ("documents", "bytes", "words", "bits")}
    for first, records, sizes in spool.blocks():
        split = fate[first : first + len(records)]
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


def _token_counts(path: Path, n_ids: int) -> np.ndarray:
    """Count each token of a file: (n_ids,) int64."""
    tokens = np.load(path, mmap_mode="r")
    counts = np.zeros(n_ids, dtype=np.int64)
    with path.open("rb") as handle:  # pages of a memmap would count as memory of the process
        handle.seek(tokens.offset)
        while len(chunk := np.fromfile(handle, tokens.dtype, CHUNK)):
            counts += np.bincount(chunk, minlength=n_ids)
    return counts


def _origins(spool: Spool, fate: np.ndarray) -> tuple[dict[str, int], dict[str, Any] | None]:
    """Count documents by licence, and describe each group that has a name, if they are not too many."""
    licences: Counter[str] = Counter()
    groups: dict[str, Any] | None = {}
    for origin, documents, n_bytes in _left_of_origins(spool, fate):
        licences[origin["licence"]] += int(documents.sum())
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
        if len(groups) > MOST_GROUPS:
            groups = None
    return dict(sorted(licences.items())), groups and dict(sorted(groups.items()))


def _left_of_origins(spool: Spool, fate: np.ndarray) -> Iterator[tuple[dict[str, Any], np.ndarray, np.ndarray]]:
    """Yield each origin with how many documents, and bytes, of it are in each split; an origin may come in parts."""
    lines = spool.origins()
    number, origin = -1, {}
    for first, records, sizes in spool.blocks():
        lowest = int(records["origin"][0])
        split = fate[first : first + len(records)]
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
    """List the files of the data with size and hash; what is written from this list is no part of it."""
    paths = sorted(path for path in folder.iterdir() if path.name not in (MANIFEST, CARD))
    return {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in paths}


def versions() -> dict[str, str]:
    """Name the versions of what made the data."""
    packages = ("advanced-code-model", "numpy", "rensa", "tokenizers")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}
