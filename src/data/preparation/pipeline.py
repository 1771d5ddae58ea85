"""The steps of preparing data, from sources to token files; a step that did not finish is repeated."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
from tqdm import tqdm

from src.config.formatting import count_of
from src.config.schema import DataConfig, TokenizerConfig, UserError
from src.data.dataset import compute_fingerprint
from src.data.document import GENERATED, N_EXAMPLES, ReadTally
from src.data.filters.text_cleaning import clean_documents
from src.data.preparation.decontamination import find_leaks
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.left_out import LEFT_OUT, count_split_drops, drop_warnings
from src.data.preparation.manifest import describe_corpus, describe_files, get_versions
from src.data.preparation.packing import pack, write_documents
from src.data.preparation.splits import (
    BEYOND_MAX_TOKENS,
    DUPLICATE,
    NEAR_DUPLICATE,
    SPLITS,
    assign_by_position,
    assign_groups,
    count_groups,
    find_duplicates,
    iterate_groups,
    split_groups,
    split_positions,
)
from src.data.preparation.token_shards import copy_shards
from src.data.preparation.tokenizer_step import TokenizerRecord, make_tokenizer
from src.data.sources.registry import read_documents
from src.data.sources.token_shards import SOURCE as DATATROVE
from src.data.tokenizer.bpe import TOKENIZER_CONFIG, load_tokenizer
from src.runtime.atomic_files import file_sha256, remove_path, sync_folder
from src.runtime.log import LogFunction
from src.runtime.records import DIGEST, read_record, write_record


class ReadRecord(TypedDict):
    """The result of reading a corpus."""

    split: str
    """How it is split: the value of `data.split`, or position if it has fewer documents than there are splits."""
    dropped: dict[str, int]
    left_out: dict[str, dict[str, Any]]
    passed_over: dict[str, dict[str, Any]]
    replaced: dict[str, int]
    files: dict[str, str]
    """SHA-256 of each file that the step wrote."""


class SplitRecord(TypedDict):
    """The result of splitting a corpus."""

    duplicates: int
    left_out: dict[str, dict[str, Any]]
    groups: dict[str, int]
    near_duplicates: dict[str, Any] | None
    files: dict[str, str]


T = TypeVar("T", ReadRecord, SplitRecord, TokenizerRecord)


class Pipeline:
    """The steps; each writes its files, then a JSON record that marks it as finished."""

    def __init__(
        self, data: DataConfig, tokenizer: TokenizerConfig, folder: Path, cache: Path, log: LogFunction
    ) -> None:
        self.data, self.tokenizer, self.folder, self.cache, self.log = data, tokenizer, folder, cache, log
        self.out = folder / "out"
        self.corpora = data.corpora
        self.stores = {
            name: DocumentStore(folder / name) for name, corpus in self.corpora.items() if corpus.source != DATATROVE
        }

    def run(self) -> dict[str, Any]:
        """Run the steps that are not finished, and return the manifest's entries on the contents."""
        read = {
            name: self._run_step(f"read.{name}", ReadRecord, list(self.stores[name].paths), self._read, name)
            for name in self.stores
        }
        split = {
            name: self._run_step(
                f"split.{name}",
                SplitRecord,
                [self.folder / f"{name}.split_assignment.npy"],
                self._split,
                name,
                read[name],
            )
            for name in self.stores
        }
        files = [self.out / name for name in ("tokenizer.json", TOKENIZER_CONFIG)]
        stored = {name: (store, self._load_assignment(name)) for name, store in self.stores.items()}
        record = self._run_step(
            "tokenizer", TokenizerRecord, files, make_tokenizer, self.tokenizer, stored, self.out, self.log
        )
        tokenizer: dict[str, Any] = {key: value for key, value in record.items() if key not in ("files", DIGEST)}
        corpora = {
            name: self._pack(name, read[name], split[name], tokenizer)
            if name in self.stores
            else self._copy(name, tokenizer["eot_id"])
            for name in self.corpora
        }
        files = describe_files(self.out)
        fingerprint = compute_fingerprint(files)
        return {
            "fingerprint": fingerprint,
            "tokenizer": {**tokenizer, "sha256": files["tokenizer.json"]["sha256"]},
            "corpora": corpora,
            "files": files,
            "versions": get_versions(),
        }

    def _run_step(self, name: str, kind: type[T], paths: list[Path], function: Callable[..., T], *args: Any) -> T:
        """Return the record of a step; run the step if it is not finished or its files are damaged.

        kind: the schema of the record. paths: the files that the step writes.
        """
        path = self.folder / f"{name}.json"
        if path.exists() and (known := self._load_finished(path, kind, paths)) is not None:
            return known
        for file in (path, *paths):
            remove_path(file)
        found = function(*args)
        sync_folder(self.folder)
        write_record(path, {**found, "files": {file.name: file_sha256(file) for file in paths}})
        return found

    def _load_finished(self, path: Path, kind: type[T], paths: list[Path]) -> T | None:
        """Return the record of a step that an earlier process finished, if its files are unchanged."""
        try:
            found = read_record(path, kind, "")
            whole = not any(file.is_symlink() for file in paths)
            if whole and found["files"] == {file.name: file_sha256(file) for file in paths}:
                return found
        except (UserError, OSError):
            pass
        self.log(f"{path.stem}: the files of an earlier attempt are damaged; repeating this step")
        return None

    def _read(self, name: str) -> "ReadRecord":
        """Read and clean a corpus. Raises: UserError if no document remains."""
        corpus = self.corpora[name]
        started = time.monotonic()
        dropped = ReadTally()
        replaced: Counter[str] = Counter()
        store = self.stores[name]
        documents = clean_documents(
            read_documents(corpus, name, self.data.seed, dropped, self.cache, replaced), dropped
        )
        store.write(
            tqdm(documents, desc=f"reading {name}", unit=" documents", disable=None, leave=False), self.data.seed
        )
        if not len(store):
            reasons = dropped.describe()
            if dropped.passed_over:
                reasons += f"; passed over: {dropped.passed_over.describe()}"
            where = f"repositories={corpus.repositories}" if corpus.source == "git" else f"paths={corpus.paths}"
            extensions = f" of data.{name}.extensions={corpus.extensions}" if corpus.extensions else ""
            raise UserError(
                f"data.{name}.{where}: no documents in them (dropped: {reasons}); "
                f"give files with text, or folders with files{extensions}"
            )
        n_documents = len(store)
        split = "position" if n_documents < len(SPLITS) else self.data.split
        if split == "position":
            store.cut(self._cut_positions(name))
        self.log(
            f"{name}: read {n_documents:,} documents, {store.n_bytes / 1e6:.1f} MB; dropped: {dropped.describe()} "
            f"({time.monotonic() - started:.1f} s)"
        )
        if split != self.data.split:
            self.log(
                f"{name}: {count_of(n_documents, 'document')} cannot be divided into train, val and test, so the last "
                f"parts of the text are held out; data.{name}.separator=MARK says where documents end"
            )
        for line in drop_warnings(name, dropped, store.n_bytes):
            self.log(line)
        return {
            "split": split,
            "dropped": dict(dropped),
            "left_out": dropped.details(),
            "passed_over": {
                reason: {"files": dropped.passed_over[reason], **more}
                for reason, more in dropped.passed_over.details().items()
            },
            "replaced": dict(sorted(replaced.items())),
            "files": {},
        }

    def _split(self, name: str, read: "ReadRecord") -> "SplitRecord":
        """Drop duplicates, split the corpus, and drop training text that is near held-out text."""
        store, corpus, split = self.stores[name], self.corpora[name], read["split"]
        started = time.monotonic()
        split_assignment = find_duplicates(store)
        duplicates = int((split_assignment == DUPLICATE).sum())
        val, test = self.data.val_fraction, self.data.test_fraction
        if split == "position":
            assign_by_position(store, split_assignment, self._cut_positions(name), f"data.{name}", test > 0)
        else:
            assign_groups(
                store,
                split_assignment,
                split_groups(lambda: iterate_groups(store, split_assignment), val, test, f"data.{name}"),
            )
        groups = count_groups(store, split_assignment)
        near = None
        if corpus.near_duplicates != "off" and corpus.source not in GENERATED:
            numbers, near = find_leaks(store, split_assignment, self.folder)
            near["dropped"] = corpus.near_duplicates == "drop"
            if near["dropped"]:
                split_assignment[numbers] = NEAR_DUPLICATE
        tally = count_split_drops(store, split_assignment)
        np.save(self.folder / f"{name}.split_assignment.npy", split_assignment)
        became = (
            ""
            if near is None
            else (
                f"; {near['found']:,} training documents near one of {near['held_out']:,} held-out ones: "
                f"{'dropped' if near['dropped'] else 'kept'}"
            )
        )
        self.log(
            f"{name}: {duplicates:,} duplicates dropped, {sum(groups.values()):,} groups split{became} "
            f"({time.monotonic() - started:.1f} s)"
        )
        if tally:
            self.log(f"{name}: dropped: {tally.describe()}")
        for line in drop_warnings(name, tally, store.n_bytes - tally.unexpected_bytes):
            self.log(line)
        return {
            "duplicates": duplicates,
            "left_out": tally.details(),
            "groups": groups,
            "near_duplicates": near,
            "files": {},
        }

    def _cut_positions(self, name: str) -> list[int]:
        """Return where val and test begin in a corpus that is split by position."""
        store = self.stores[name]
        return store.cut_positions(split_positions(store.n_bytes, self.data.val_fraction, self.data.test_fraction))

    def _load_assignment(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.split_assignment.npy")

    def _copy(self, name: str, eot_id: int) -> dict[str, Any]:
        """Copy the tokens of a corpus that is tokenized already, and return its entry in the manifest."""
        started, tokenizer = time.monotonic(), load_tokenizer(self.out / "tokenizer.json")
        entry = copy_shards(self.data, name, tokenizer, eot_id, self.out / name)
        counts = ", ".join(f"{part} {entry['splits'][part]['tokens']:,}" for part in SPLITS)
        self.log(f"{name}: copied tokens: {counts} ({time.monotonic() - started:.1f} s)")
        return entry

    def _pack(self, name: str, read: "ReadRecord", split: "SplitRecord", tokenizer: dict[str, Any]) -> dict[str, Any]:
        """Write the token files of a corpus and return its entry in the manifest."""
        started = time.monotonic()
        store, split_assignment, stem = self.stores[name], self._load_assignment(name), self.out / name
        corpus = self.corpora[name]
        path = self.out / "tokenizer.json"
        special = tokenizer["eot_id"], tokenizer["vocab_size"]
        pack(
            store,
            split_assignment,
            load_tokenizer(path),
            special,
            stem,
            self.folder / f"{name}.packed.json",
            corpus.max_tokens,
        )
        write_documents(store, split_assignment, stem)
        entry = describe_corpus(store, split_assignment, stem, tokenizer["vocab_size"])
        for part, count in split["groups"].items():
            entry["splits"][part]["groups"] = count
        reasons = {**LEFT_OUT, "beyond max_tokens": BEYOND_MAX_TOKENS}
        dropped = Counter(read["dropped"])
        dropped.update({reason: int((split_assignment == number).sum()) for reason, number in reasons.items()})
        left_out = dict(read["left_out"])
        for reason, more in split["left_out"].items():
            known = left_out.get(reason, {"bytes": 0, "first": []})
            first = [*known["first"], *more["first"]][:N_EXAMPLES]
            left_out[reason] = {"bytes": known["bytes"] + more["bytes"], "first": first}
        counts = ", ".join(f"{part} {entry['splits'][part]['tokens']:,}" for part in SPLITS)
        self.log(f"{name}: packed tokens: {counts} ({time.monotonic() - started:.1f} s)")
        return {
            "source": corpus.source,
            "split": read["split"],
            **entry,
            "dropped": {reason: dropped[reason] for reason in sorted(dropped) if dropped[reason]},
            "left_out": {reason: left_out[reason] for reason in sorted(left_out)},
            "passed_over": read["passed_over"],
            "replaced": read["replaced"],
            "near_duplicates": split["near_duplicates"],
        }
