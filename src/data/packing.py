"""Prepare data: read -> clean -> split by group -> train the tokenizer -> pack tokens, once, into a folder.

    manifest.json  tokenizer.json  <corpus>_<split>.npy     (corpus: language, code; split: train, val, test)

A split is one stream `EOT doc EOT doc ... EOT`: each document follows a token that says that nothing before it
matters, and is followed by the token that ends generation. The folder's name holds a hash of all settings that decide
its contents, and its manifest a fingerprint of the contents themselves; it appears whole or not at all.
"""

import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from src.config import DataConfig, TokenizerConfig, UserError
from src.data.clean import clean, split_groups
from src.data.prepared import (
    CORPORA,
    FORMAT_VERSION,
    SPLITS,
    PreparedData,
    find_prepared,
    folder_of,
    load_given,
    load_prepared,
    settings_of,
)
from src.data.sources import local_files, read_documents
from src.data.spool import Spool
from src.data.tokenizer import EOT, EOT_ID, encode_batch, train_tokenizer
from src.runtime.files import file_lock, replace_folder, settle_folder, sha256_of, write_json

__all__ = ["PreparedData", "find_prepared", "load_prepared", "prepare_data"]

TOKENIZER_SAMPLE_BYTES = 20_000_000
"""Text of each corpus that the tokenizer is trained on, at most; merges hardly change beyond."""
BATCH_BYTES = 2_000_000

Say = Callable[[str], None]


def prepare_data(
    data: DataConfig, tokenizer: TokenizerConfig, output_root: Path, rerun: bool = False, say: Say = print
) -> PreparedData:
    """Write the folder of these settings under `output_root/data`, or open it if it is there and up to date.

    Raises: UserError for whatever is wrong with settings or text; no folder is written then.
    """
    if data.dir is not None:
        return load_given(data.dir)
    folder = folder_of(data, tokenizer, output_root)
    inputs = {name: _inputs(data, name) for name in CORPORA}
    with file_lock(folder.with_name(f".lock-{folder.name}")):
        settle_folder(folder)
        for killed in folder.parent.glob(f".{folder.name}.*.tmp"):  # whoever wrote it held the lock, so it is dead
            shutil.rmtree(killed)
        if not rerun and (prepared := _load_if_current(folder, inputs, say)):
            say(f"prepared already: {folder}")
            return prepared
        with replace_folder(folder) as temporary:
            manifest = _write(data, tokenizer, temporary, output_root / "sources", say)
            manifest = {"format_version": FORMAT_VERSION, "name": data.name, **manifest, "inputs": inputs}
            write_json(temporary / "manifest.json", {**manifest, "settings": settings_of(data, tokenizer)})
        return load_prepared(folder)


def _inputs(data: DataConfig, name: str) -> list[list[Any]]:
    """List path, size and time of change of the files that a local corpus reads; nothing for a generated one."""
    corpus = getattr(data, name)
    if corpus.source != "local":
        return []
    files = [(file, file.stat()) for file in local_files(corpus, name, Counter())]
    return [[os.path.abspath(file), stat.st_size, stat.st_mtime_ns] for file, stat in files]


def _load_if_current(folder: Path, inputs: dict[str, Any], say: Say) -> PreparedData | None:
    if not folder.exists():
        return None
    try:
        prepared = load_prepared(folder)
    except UserError as error:
        say(f"preparing again: {error}")
        return None
    if prepared.manifest.get("inputs") != inputs:
        say(f"preparing again: the files behind {folder} have changed")
        return None
    return prepared


def _write(data: DataConfig, tokenizer: TokenizerConfig, folder: Path, cache: Path, say: Say) -> dict[str, Any]:
    """Write tokenizer and tokens into an empty folder, and return their part of the manifest."""
    spools: dict[str, Spool] = {}
    splits: dict[str, np.ndarray] = {}
    corpora: dict[str, dict[str, Any]] = {}
    for name in CORPORA:
        spools[name], corpora[name] = _read(data, name, folder, cache, say)
        splits[name] = _split(data, name, spools[name])
    trained = _train_tokenizer(spools, splits, tokenizer.vocab_size, say)
    trained.save(str(folder / "tokenizer.json"))
    tokenizer_sha256 = sha256_of(folder / "tokenizer.json")
    hashes = [tokenizer_sha256]
    for name in CORPORA:
        started = time.monotonic()
        corpora[name]["splits"] = _pack(spools[name], splits[name], trained, folder, name)
        spools[name].path.unlink()
        entries = corpora[name]["splits"]
        hashes += [entries[split]["sha256"] for split in SPLITS]
        counts = ", ".join(f"{split} {entries[split]['tokens']:,}" for split in SPLITS)
        say(f"{name}: packed tokens: {counts} ({time.monotonic() - started:.1f} s)")
    return {
        "fingerprint": hashlib.sha256("".join(hashes).encode()).hexdigest(),
        "tokenizer": {"vocab_size": trained.get_vocab_size(), "sha256": tokenizer_sha256, "eot_id": EOT_ID, "eot": EOT},
        "corpora": corpora,
    }


def _read(data: DataConfig, name: str, folder: Path, cache: Path, say: Say) -> tuple[Spool, dict[str, Any]]:
    """Read and clean a corpus. Raises: UserError if no document is left."""
    corpus = getattr(data, name)
    started = time.monotonic()
    dropped: Counter[str] = Counter()
    spool = Spool(folder / f"{name}.spool")
    documents = clean(read_documents(corpus, name, data.seed, dropped, cache), dropped)
    spool.fill(tqdm(documents, desc=f"reading {name}", unit=" documents", disable=None, leave=False))
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(dropped.items())) or "none"
    if not len(spool):
        extensions = f" of data.{name}.extensions={corpus.extensions}" if corpus.source == "local" else ""
        raise UserError(
            f"data.{name}.paths={corpus.paths}: no document in them (dropped: {reasons}); "
            f"give files with text, or folders with files{extensions}"
        )
    size = int(spool.sizes.sum())
    say(
        f"{name}: read {len(spool):,} documents, {size / 1e6:.1f} MB in {len(spool.group_names):,} groups; "
        f"dropped: {reasons} ({time.monotonic() - started:.1f} s)"
    )
    return spool, {
        "source": corpus.source,
        "documents": len(spool),
        "bytes": size,
        "groups": len(spool.group_names),
        "dropped": dict(sorted(dropped.items())),
        "licences": dict(sorted(spool.licences.items())),
    }


def _split(data: DataConfig, name: str, spool: Spool) -> np.ndarray:
    """Return the split of each document as an index into SPLITS: (n_documents,) int8."""
    split = split_groups(spool.group_sizes(), data.val_fraction, data.test_fraction, data.seed, name)
    of_group = np.array([SPLITS.index(split[group]) for group in spool.group_names], dtype=np.int8)
    return of_group[spool.groups]


def _train_tokenizer(spools: dict[str, Spool], splits: dict[str, np.ndarray], vocab_size: int, say: Say) -> Tokenizer:
    """Train on an equal share of the training text of both corpora, so that neither is spelt out letter by letter."""
    started = time.monotonic()
    train = {name: splits[name] == SPLITS.index("train") for name in CORPORA}
    share = min(TOKENIZER_SAMPLE_BYTES, *(int(spools[name].sizes[train[name]].sum()) for name in CORPORA))
    tokenizer = train_tokenizer(
        (text for name in CORPORA for text in spools[name].sample(train[name], share)), vocab_size
    )
    say(f"tokenizer: {vocab_size} tokens from {share / 1e6:.1f} MB of each corpus ({time.monotonic() - started:.1f} s)")
    return tokenizer


class _TokenFile:
    """A 1-D .npy file that grows: its header keeps room for the length, which is known at the end."""

    def __init__(self, path: Path, vocab_size: int) -> None:
        self.dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self.counts = np.zeros(vocab_size, dtype=np.int64)
        self._handle = path.open("w+b")
        self._hash = hashlib.sha256()
        self._write_header(0)
        self.append([EOT_ID])

    def _write_header(self, length: int) -> int:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (length,)}
        self._handle.seek(0)
        np.lib.format.write_array_header_1_0(self._handle, header)
        return self._handle.tell()

    def append(self, ids: list[int]) -> None:
        array = np.array(ids, dtype=self.dtype)
        self.counts += np.bincount(array, minlength=len(self.counts))
        self._hash.update(array.tobytes())
        self._handle.write(array.tobytes())

    def complete(self) -> str:
        """Write the length into the header and return the sha256 of the tokens."""
        n_tokens = int(self.counts.sum())
        size = self._handle.tell()
        assert size == self._write_header(n_tokens) + n_tokens * self.dtype.itemsize, "numpy keeps the header's room"
        return self._hash.hexdigest()

    def __enter__(self) -> "_TokenFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()


def _pack(spool: Spool, split: np.ndarray, tokenizer: Tokenizer, folder: Path, name: str) -> dict[str, dict[str, Any]]:
    """Write the token files of a corpus, and return the manifest's entry of each split."""
    with ExitStack() as stack:
        files = [
            stack.enter_context(_TokenFile(folder / f"{name}_{part}.npy", tokenizer.get_vocab_size()))
            for part in SPLITS
        ]
        progress = stack.enter_context(
            tqdm(total=len(spool), desc=f"packing {name}", unit=" documents", disable=None, leave=False)
        )
        for indices, texts in spool.batches(BATCH_BYTES):
            ids: list[list[int]] = [[] for _ in SPLITS]
            for index, tokens in zip(indices, encode_batch(tokenizer, texts), strict=True):
                ids[split[index]] += tokens
                ids[split[index]].append(EOT_ID)
            for file, part in zip(files, ids, strict=True):
                file.append(part)
            progress.update(len(texts))
        return {part: _describe(spool, split == number, files[number]) for number, part in enumerate(SPLITS)}


def _describe(spool: Spool, chosen: np.ndarray, file: _TokenFile) -> dict[str, Any]:
    """Complete a split's file and gather what is known of it."""
    sha256 = file.complete()
    n_bytes, n_tokens = int(spool.sizes[chosen].sum()), int(file.counts.sum())
    bits = float(spool.bits[chosen].sum())
    groups = sorted({spool.group_names[index] for index in np.unique(spool.groups[chosen]).tolist()} & spool.named)
    p = file.counts[file.counts > 0] / n_tokens
    return {
        "documents": int(chosen.sum()),
        "bytes": n_bytes,
        "tokens": n_tokens,
        "sha256": sha256,
        "unigram_loss": float(-(p * np.log(p)).sum()),
        "bytes_per_token": n_bytes / n_tokens,
        "floor_bits_per_byte": None if np.isnan(bits) else bits / n_bytes,
        "groups": len(np.unique(spool.groups[chosen])),
        "group_names": groups,
    }
