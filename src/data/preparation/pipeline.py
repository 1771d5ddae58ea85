"""The steps of preparing data, from sources to token files; each is whole, or done again by the next process."""

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
from tqdm import tqdm

from src.config.schema import CorpusConfig, DataConfig, TokenizerConfig, UserError
from src.data.dataset import CORPORA, fingerprint_of
from src.data.document import FIRST, GENERATED, Losses, Tally, size_text
from src.data.filters.text_cleaning import clean
from src.data.preparation.decontamination import find_leaks
from src.data.preparation.document_store import Spool
from src.data.preparation.manifest import describe_corpus, describe_files, versions
from src.data.preparation.packing import pack, write_documents
from src.data.preparation.splits import (
    BEYOND,
    DUPLICATE,
    NEAR_DUPLICATE,
    SPLITS,
    TRAIN,
    VAL,
    assign,
    assign_by_position,
    count_groups,
    find_duplicates,
    groups_of,
    split_groups,
    split_positions,
)
from src.data.sources.registry import read_documents
from src.data.tokenizer.bpe import (
    CONFIG,
    EOT,
    build_character_tokenizer,
    eot_id_of,
    id_count,
    load_tokenizer,
    save_tokenizer,
    train_tokenizer,
)
from src.data.tokenizer.external import compare, open_tokenizer, take_tokenizer
from src.runtime.atomic_files import remove_path, sha256_of, sync
from src.runtime.records import DIGEST, read_record, write_record

TOKENIZER_SAMPLE_BYTES = 40_000_000
"""Text that the tokenizer is trained on, at most; merges hardly change beyond."""
COMPARED_BYTES = 2_000_000
"""Held-out text of each corpus that another tokenizer is compared on, at most."""

LEFT_OUT = {"duplicate": DUPLICATE, "near duplicate of held-out text": NEAR_DUPLICATE}
"""What the split leaves out."""
MOST_LOST = 0.1
"""Share of the bytes of a corpus that is left out without a warning."""

Say = Callable[[str], None]


class ReadRecord(TypedDict):
    """What reading a corpus found."""

    dropped: dict[str, int]
    left_out: dict[str, dict[str, Any]]
    passed_over: dict[str, dict[str, Any]]
    replaced: dict[str, int]
    files: dict[str, str]
    """What a step left, and the SHA-256 of each."""


class SplitRecord(TypedDict):
    """What the split of a corpus found."""

    duplicates: int
    left_out: dict[str, dict[str, Any]]
    groups: dict[str, int]
    near_duplicates: dict[str, Any] | None
    files: dict[str, str]


class TokenizerRecord(TypedDict):
    """What there is to say of the tokenizer."""

    vocab_size: int
    eot: str
    eot_id: int
    trained_on: dict[str, int] | None
    compared: dict[str, dict[str, Any]]
    files: dict[str, str]


T = TypeVar("T", ReadRecord, SplitRecord, TokenizerRecord)


class Steps:
    """The steps; each leaves files, and at last a small JSON that says that it is done."""

    def __init__(self, data: DataConfig, tokenizer: TokenizerConfig, folder: Path, cache: Path, say: Say) -> None:
        self.data, self.tokenizer, self.folder, self.cache, self.say = data, tokenizer, folder, cache, say
        self.out = folder / "out"
        self.spools = {name: Spool(folder / name) for name in CORPORA}

    def run(self) -> dict[str, Any]:
        """Do what is not done yet, and return the manifest's part on the contents."""
        read = {
            name: self._step(f"read.{name}", ReadRecord, list(self.spools[name].paths), self._read, name)
            for name in CORPORA
        }
        split = {
            name: self._step(f"split.{name}", SplitRecord, [self.folder / f"{name}.fate.npy"], self._split, name)
            for name in CORPORA
        }
        files = [self.out / name for name in ("tokenizer.json", CONFIG)]
        made = self._step("tokenizer", TokenizerRecord, files, self._make_tokenizer)
        tokenizer = {key: value for key, value in made.items() if key not in ("files", DIGEST)}
        corpora = {name: self._pack(name, read[name], split[name], tokenizer) for name in CORPORA}
        files = describe_files(self.out)
        fingerprint = fingerprint_of(files)
        return {
            "fingerprint": fingerprint,
            "tokenizer": {**tokenizer, "sha256": files["tokenizer.json"]["sha256"]},
            "corpora": corpora,
            "files": files,
            "versions": versions(),
        }

    def _step(self, name: str, kind: type[T], left: list[Path], do: Callable[..., T], *args: Any) -> T:
        """Return what a step found, doing it if no earlier process has, or if what it left is damaged.

        kind: the schema of what it finds. left: the files that it writes.
        """
        path = self.folder / f"{name}.json"
        if path.exists() and (known := self._known(path, kind, left)) is not None:
            return known
        for file in (path, *left):
            remove_path(file)
        found = do(*args)
        for file in self.folder.rglob("*"):
            if file.is_file():
                sync(file)
        write_record(path, {**found, "files": {file.name: sha256_of(file) for file in left}})
        return found

    def _known(self, path: Path, kind: type[T], left: list[Path]) -> T | None:
        """Return what an earlier process found, if all that it left is as it was."""
        try:
            found = read_record(path, kind, "")
            whole = not any(file.is_symlink() for file in left)
            if whole and found["files"] == {file.name: sha256_of(file) for file in left}:
                return found
        except (UserError, OSError):
            pass
        self.say(f"{path.stem}: what an earlier attempt left is damaged; it is done again")
        return None

    def _read(self, name: str) -> "ReadRecord":
        """Read and clean a corpus. Raises: UserError if no document is left."""
        corpus: CorpusConfig = getattr(self.data, name)
        started = time.monotonic()
        dropped = Losses()
        replaced: Counter[str] = Counter()
        spool = self.spools[name]
        documents = clean(read_documents(corpus, name, self.data.seed, dropped, self.cache, replaced), dropped)
        spool.fill(
            tqdm(documents, desc=f"reading {name}", unit=" documents", disable=None, leave=False), self.data.seed
        )
        if not len(spool):
            reasons = dropped.describe()
            if dropped.passed_over:
                reasons += f"; passed over: {dropped.passed_over.describe()}"
            where = f"repositories={corpus.repositories}" if corpus.source == "git" else f"paths={corpus.paths}"
            extensions = f" of data.{name}.extensions={corpus.extensions}" if corpus.extensions else ""
            raise UserError(
                f"data.{name}.{where}: no document in them (dropped: {reasons}); "
                f"give files with text, or folders with files{extensions}"
            )
        if self.data.split == "position":
            spool.cut(self._cut_places(name))
        self.say(
            f"{name}: read {len(spool):,} documents, {spool.n_bytes / 1e6:.1f} MB; dropped: {dropped.describe()} "
            f"({time.monotonic() - started:.1f} s)"
        )
        for line in loss_lines(name, dropped, spool.n_bytes):
            self.say(line)
        return {
            "dropped": dict(dropped),
            "left_out": dropped.details(),
            "passed_over": {
                reason: {"files": dropped.passed_over[reason], **more}
                for reason, more in dropped.passed_over.details().items()
            },
            "replaced": dict(sorted(replaced.items())),
            "files": {},
        }

    def _split(self, name: str) -> "SplitRecord":
        """Drop duplicates, split by group, and see that nothing held out is known in training."""
        spool, corpus = self.spools[name], getattr(self.data, name)
        started = time.monotonic()
        fate = find_duplicates(spool)
        duplicates = int((fate == DUPLICATE).sum())
        val, test = self.data.val_fraction, self.data.test_fraction
        if self.data.split == "position":
            assign_by_position(spool, fate, self._cut_places(name), f"data.{name}", test > 0)
        else:
            assign(spool, fate, split_groups(lambda: groups_of(spool, fate), val, test, f"data.{name}"))
        groups = count_groups(spool, fate)
        near = None
        if corpus.near_duplicates != "off" and corpus.source not in GENERATED:
            numbers, near = find_leaks(spool, fate, self.folder)
            near["dropped"] = corpus.near_duplicates == "drop"
            if near["dropped"]:
                fate[numbers] = NEAR_DUPLICATE
        tally = _tally(spool, fate)
        np.save(self.folder / f"{name}.fate.npy", fate)
        became = (
            ""
            if near is None
            else (
                f"; {near['found']:,} training documents near one of {near['held_out']:,} held-out ones: "
                f"{'dropped' if near['dropped'] else 'kept'}"
            )
        )
        self.say(
            f"{name}: {duplicates:,} duplicates dropped, {sum(groups.values()):,} groups split{became} "
            f"({time.monotonic() - started:.1f} s)"
        )
        if tally:
            self.say(f"{name}: dropped: {tally.describe()}")
        for line in loss_lines(name, tally, spool.n_bytes - tally.lost_bytes):
            self.say(line)
        return {
            "duplicates": duplicates,
            "left_out": tally.details(),
            "groups": groups,
            "near_duplicates": near,
            "files": {},
        }

    def _cut_places(self, name: str) -> list[int]:
        """Return where a corpus is cut that is split by position."""
        spool = self.spools[name]
        return spool.cut_places(split_positions(spool.n_bytes, self.data.val_fraction, self.data.test_fraction))

    def _fate(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.fate.npy")

    def _make_tokenizer(self) -> "TokenizerRecord":
        """Make a tokenizer, or take the one that is given, and compare it with another if that is asked for."""
        started = time.monotonic()
        settings = self.tokenizer
        trained_on = None
        if settings.path is not None:
            tokenizer, eot = take_tokenizer(settings)
        elif settings.kind == "characters":
            kept = (text for name, spool in self.spools.items() for _, text in spool.texts(self._fate(name) >= 0))
            tokenizer, eot = build_character_tokenizer(kept, settings.vocab_size), EOT
            self.say(f"tokenizer: {id_count(tokenizer)} tokens, one for each character of the text")
        else:
            trained_on = self._sample_bytes()
            texts = (
                text
                for name, size in trained_on.items()
                for text in self.spools[name].sample(self._fate(name) == TRAIN, size)
            )
            tokenizer, eot = train_tokenizer(texts, settings.vocab_size), EOT
            sizes = " and ".join(f"{size / 1e6:.1f} MB of {name}" for name, size in trained_on.items())
            self.say(f"tokenizer: {settings.vocab_size} tokens from {sizes} ({time.monotonic() - started:.1f} s)")
        save_tokenizer(tokenizer, eot, self.out)
        compared = {}
        if settings.compare is not None:
            other = open_tokenizer("tokenizer.compare", settings.compare)
            for name in CORPORA:
                texts = list(self.spools[name].sample(self._fate(name) == VAL, COMPARED_BYTES))
                compared[name] = compare(tokenizer, other, texts)
        return {
            "vocab_size": id_count(tokenizer),
            "eot": eot,
            "eot_id": eot_id_of(tokenizer, self.out / "tokenizer.json"),
            "trained_on": trained_on,
            "compared": compared,
            "files": {},
        }

    def _sample_bytes(self) -> dict[str, int]:
        """Return how many bytes of each corpus to train the tokenizer on: as many as their shares let there be."""
        code_share = self.tokenizer.code_share
        total = TOKENIZER_SAMPLE_BYTES
        shares = {"language": 1 - code_share, "code": code_share}
        for name, share in shares.items():
            if share:
                chosen = self._fate(name) == TRAIN
                there = sum(
                    int(sizes[chosen[first : first + len(sizes)]].sum())
                    for first, _, sizes in self.spools[name].blocks()
                )
                total = min(total, int(there / share))
        return {name: round(share * total) for name, share in shares.items() if share}

    def _pack(self, name: str, read: "ReadRecord", split: "SplitRecord", tokenizer: dict[str, Any]) -> dict[str, Any]:
        """Write the token files of a corpus, and return the manifest's entry of it."""
        started = time.monotonic()
        spool, fate, stem = self.spools[name], self._fate(name), self.out / name
        corpus: CorpusConfig = getattr(self.data, name)
        path = self.out / "tokenizer.json"
        special = tokenizer["eot_id"], tokenizer["vocab_size"]
        pack(spool, fate, load_tokenizer(path), special, stem, self.folder / f"{name}.packed.json", corpus.max_tokens)
        write_documents(spool, fate, stem)
        entry = describe_corpus(spool, fate, stem, tokenizer["vocab_size"])
        for part, count in split["groups"].items():
            entry["splits"][part]["groups"] = count
        reasons = {**LEFT_OUT, "beyond max_tokens": BEYOND}
        dropped = Counter(read["dropped"])
        dropped.update({reason: int((fate == number).sum()) for reason, number in reasons.items()})
        left_out = dict(read["left_out"])
        for reason, more in split["left_out"].items():
            known = left_out.get(reason, {"bytes": 0, "first": []})
            first = [*known["first"], *more["first"]][:FIRST]
            left_out[reason] = {"bytes": known["bytes"] + more["bytes"], "first": first}
        counts = ", ".join(f"{part} {entry['splits'][part]['tokens']:,}" for part in SPLITS)
        self.say(f"{name}: packed tokens: {counts} ({time.monotonic() - started:.1f} s)")
        return {
            "source": corpus.source,
            **entry,
            "dropped": {reason: dropped[reason] for reason in sorted(dropped) if dropped[reason]},
            "left_out": {reason: left_out[reason] for reason in sorted(left_out)},
            "passed_over": read["passed_over"],
            "replaced": read["replaced"],
            "near_duplicates": split["near_duplicates"],
        }


def loss_lines(name: str, dropped: Tally, n_bytes: int) -> list[str]:
    """Tell what was passed over, what a user should know, and of a large loss. n_bytes: of the text that is left."""
    lines = []
    lost = dropped.lost_bytes
    if isinstance(dropped, Losses):
        if dropped.passed_over:
            lines.append(f"{name}: passed over: {dropped.passed_over.describe()}")
        lines += [f"{name}: {note}" for note in dropped.notes]
        lost += dropped.passed_over.lost_bytes
    if lost > MOST_LOST * (lost + n_bytes):
        lines.append(
            f"warning: {name}: {size_text(lost)} of {size_text(lost + n_bytes)} are left out "
            f"({lost / (lost + n_bytes):.0%}), for the reasons above"
        )
    return lines


def _tally(spool: Spool, fate: np.ndarray) -> Tally:
    """Count what the split leaves out, with its bytes and first places."""
    tally = Tally()
    for reason, number in LEFT_OUT.items():
        chosen = np.flatnonzero(fate == number)
        if not len(chosen):
            continue
        n_bytes = sum(
            int(sizes[fate[first : first + len(sizes)] == number].sum()) for first, _, sizes in spool.blocks()
        )
        names = [where for _, where, _ in spool.where(chosen[:FIRST].tolist()).values()]
        tally.record(reason, n_bytes, "", len(chosen))
        tally.first[reason] = names
    return tally
