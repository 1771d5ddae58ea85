"""Copy shards of tokenized text into the token files of a corpus, at the speed of the disk and in constant memory.

The split of a document depends on its tokens and `data.seed` alone, so equal documents are in the same split. Nothing
is filtered or deduplicated: datatrove does both before it tokenizes.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from src.config.schema import DataConfig, UserError
from src.data.hashing import hash_numbers, splitmix64
from src.data.preparation.manifest import unigram_loss
from src.data.preparation.packing import DOCUMENT, NpyFile, token_dtype
from src.data.preparation.splits import SPLITS, TEST, TRAIN, VAL
from src.data.sources.token_shards import SOURCE, Shard, list_shards, open_shard
from src.data.tokenizer.bpe import byte_lengths
from src.runtime.atomic_files import remove_path


class _Split:
    """The files of a split, and what is in them."""

    def __init__(self, stem: Path, name: str, eot_id: int, n_ids: int, opened: ExitStack) -> None:
        def create(ending: str, dtype: np.dtype[Any]) -> NpyFile:
            path = stem.with_name(f"{stem.name}_{name}{ending}")
            remove_path(path)
            return opened.enter_context(closing(NpyFile(path, dtype)))

        self.tokens = create(".npy", token_dtype(n_ids))
        self.offsets, self.documents = create(".offsets.npy", np.dtype("<u8")), create(".documents.npy", DOCUMENT)
        self.eot_id, self.counts, self.n_bytes = eot_id, np.zeros(n_ids, dtype=np.int64), 0
        self._append(np.array([eot_id]))

    def _append(self, ids: np.ndarray) -> None:
        self.tokens.append(ids)
        self.counts += np.bincount(ids, minlength=len(self.counts))

    def add(self, ids: np.ndarray, lengths: np.ndarray, digests: np.ndarray, origin: int) -> None:
        """Append documents: ids of all, and the tokens of each; an end-of-text token follows each."""
        ends = np.cumsum(lengths) + np.arange(len(lengths))
        stream = np.full(len(ids) + len(lengths), self.eot_id, dtype=np.int64)
        is_text = np.ones(len(stream), dtype=bool)
        is_text[ends] = False
        stream[is_text] = ids
        self.offsets.append(self.tokens.length - 1 + np.concatenate([[0], ends[:-1] + 1]))
        rows = np.zeros(len(lengths), DOCUMENT)
        rows["digest"], rows["origin"] = digests, origin
        self.documents.append(rows)
        self._append(stream)

    def describe(self) -> dict[str, Any]:
        """Complete the files and return the split's entry in the manifest."""
        for file in (self.tokens, self.offsets, self.documents):
            file.complete()
        n_tokens, n_documents = self.tokens.length, self.offsets.length
        return {
            "documents": n_documents,
            "groups": n_documents,
            "bytes": self.n_bytes,
            "words": None,
            "tokens": n_tokens,
            "unigram_loss": unigram_loss(self.counts),
            "bytes_per_token": self.n_bytes / n_tokens,
            "tokens_per_word": None,
            "floor_bits_per_byte": None,
        }


def copy_shards(data: DataConfig, name: str, tokenizer: Tokenizer, eot_id: int, stem: Path) -> dict[str, Any]:
    """Write the token files of a corpus and return its entry in the manifest.

    stem: folder and name of the corpus. Special tokens are left out, as in text that is tokenized here.
    Raises: UserError for a shard that does not fit its index or the tokenizer, or text that does not fill the splits.
    """
    corpus, text_bytes = getattr(data, name), byte_lengths(tokenizer)
    paths = list_shards(corpus, name)
    n_tokens = sum(open_shard(path).n_tokens for path in paths)  # all are checked first
    with ExitStack() as opened:
        splits = [_Split(stem, split, eot_id, len(text_bytes), opened) for split in SPLITS]
        progress = opened.enter_context(
            tqdm(desc=f"copying {name}", total=n_tokens, unit=" tokens", unit_scale=True,
                 disable=None, leave=False)
        )  # fmt: skip
        left_out = 0
        for origin, shard in enumerate(map(open_shard, paths)):
            for ids, ends in shard.chunks():
                left_out += _copy_chunk(
                    data, corpus.max_tokens, splits, _check_ids(shard, ids, text_bytes), ends, origin
                )
                progress.update(len(ids))
        if empty := [split for split, each in zip(SPLITS, splits, strict=True) if not each.offsets.length]:
            raise UserError(f"data.{name}.paths={corpus.paths}: too few documents for the split {empty[0]}; give more")
        entries = {split: each.describe() for split, each in zip(SPLITS, splits, strict=True)}
    with stem.with_name(f"{stem.name}.origins.jsonl").open("w", encoding="utf-8") as handle:
        handle.writelines(json.dumps({"path": str(path), "licence": "unknown"}) + "\n" for path in paths)
    n_documents = sum(entry["documents"] for entry in entries.values())
    return {
        "source": SOURCE,
        "split": data.split,
        "documents": n_documents,
        "bytes": sum(entry["bytes"] for entry in entries.values()),
        "splits": entries,
        "licences": {"unknown": n_documents},
        "groups": None,
        "dropped": {"beyond max_tokens": left_out} if left_out else {},
        "left_out": {},
        "passed_over": {},
        "replaced": {},
        "near_duplicates": None,
    }


def _check_ids(shard: Shard, ids: np.ndarray, text_bytes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids as int64 and the bytes of text of each. Raises: UserError if the tokenizer has too few."""
    if (highest := int(ids.max(initial=0))) >= len(text_bytes):
        raise UserError(
            f"{shard.path}: has token {highest}, and tokenizer.path only {len(text_bytes)} tokens; "
            "give the tokenizer that datatrove used"
        )
    return ids.astype(np.int64), text_bytes[ids]


def _copy_chunk(
    data: DataConfig,
    max_tokens: int | None,
    splits: Sequence[_Split],
    tokens: tuple[np.ndarray, np.ndarray],
    ends: np.ndarray,
    origin: int,
) -> int:
    """Append whole documents to their splits; return how many were left out because of `max_tokens`."""
    ids, n_bytes = tokens
    owner = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))[n_bytes > 0]
    ids, n_bytes = ids[n_bytes > 0], n_bytes[n_bytes > 0]
    _, starts, lengths = np.unique(owner, return_index=True, return_counts=True)  # documents with text
    position = np.arange(len(ids)) - np.repeat(starts, lengths)
    mixed = splitmix64(splitmix64(position.astype(np.uint64)) ^ ids.astype(np.uint64))
    digests = np.stack([np.add.reduceat(part, starts) for part in (mixed, splitmix64(mixed))], axis=1)
    draw = splitmix64(digests[:, 0] ^ hash_numbers(data.seed)) / 2.0**64
    held_out = data.val_fraction + data.test_fraction
    number = np.where(draw < data.test_fraction, TEST, np.where(draw < held_out, VAL, TRAIN))
    is_kept = np.ones(len(lengths), dtype=bool)
    if max_tokens is not None:
        before = splits[TRAIN].tokens.length + np.cumsum((lengths + 1) * (number == TRAIN)) - lengths - 1
        is_kept = (number != TRAIN) | (before < max_tokens)
    for index, split in enumerate(splits):
        chosen = (number == index) & is_kept
        if chosen.any():
            of_split = np.repeat(chosen, lengths)
            split.add(ids[of_split], lengths[chosen], digests[chosen], origin)
            split.n_bytes += int(n_bytes[of_split].sum())
    return int((~is_kept).sum())
