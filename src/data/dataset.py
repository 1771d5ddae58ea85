"""Open prepared data: a folder whose files are verified when it is opened and then only read."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from src.config.schema import DataConfig, TokenizerConfig, UserError
from src.data.document import GENERATED
from src.data.task_data import TaskData
from src.data.tokenizer.bpe import count_ids, get_eot_id, load_tokenizer
from src.data.tokenizer.external import find_tokenizer_file
from src.runtime.atomic_files import file_sha256, find_folder
from src.runtime.errors import first_line
from src.runtime.log import replace_control_chars
from src.runtime.records import (
    child_path,
    content_sha256,
    convert,
    find_record,
    is_plain_name,
    read_record,
    write_record,
)

FORMAT_VERSION = 2
GENERATED_TEXT_HASH = "4767751325290df5"
"""Hash of the first 300 KB of stories and of scripts of seed 0; a test computes it. A changed hash means new data."""
CORPORA = ("language", "code")
SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"
CARD = "DATA_CARD.md"
LATER_SETTINGS = ("separator", "text_field", "sha256")
"""Settings of a corpus that earlier versions did not have; left out of the hash while unset."""
PROVENANCE = (".offsets.npy", ".documents.npy", ".origins.jsonl")
"""Endings of files that describe the tokens and do not decide them."""
VERIFIED = ".verified.json"
"""File beside the manifest: size, times and inode of each file when its hash was last checked."""
REMEDY = "prepare it again with python -m src.prepare rerun=true"


@dataclass(frozen=True)
class PreparedData:
    """A folder of token files, their tokenizer, and the manifest that describes them."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the contents; equal fingerprints mean equal tokens."""
        return self.manifest["fingerprint"]

    @property
    def name(self) -> str:
        return self.manifest["name"]

    @property
    def location(self) -> str:
        """Where the data is, for messages."""
        return str(self.folder)

    @property
    def tokenizer_sha256(self) -> str:
        return self.manifest["tokenizer"]["sha256"]

    @property
    def vocab_size(self) -> int:
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora that were prepared, of CORPORA."""
        return tuple(self.manifest["corpora"])

    @property
    def tokenizer_kind(self) -> str:
        """The value of `tokenizer.kind`: bpe or characters."""
        return self.manifest["settings"].get("tokenizer", {}).get("kind", TokenizerConfig.kind)

    @property
    def eot_id(self) -> int:
        return self.manifest["tokenizer"]["eot_id"]

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / "tokenizer.json"

    def tokens(self, corpus: str, split: str) -> np.ndarray:
        """Open the token ids of a split: (n_tokens,), memory-mapped."""
        return _open_array(self.folder / f"{corpus}_{split}.npy", "<u2 <u4")

    def offsets(self, corpus: str, split: str) -> np.ndarray:
        """Open the positions of the end-of-text token before each document of a split: (n_documents,) uint64."""
        return _open_array(self.folder / f"{corpus}_{split}.offsets.npy", "<u8")

    def references(self, corpus: str, split: str) -> dict[str, float | None]:
        """Return reference values for a loss: uniform and unigram loss (nats per token), floor, bytes per token."""
        entry = self.manifest["corpora"][corpus]["splits"][split]
        return {
            "uniform_loss": float(np.log(self.vocab_size)),
            "unigram_loss": entry["unigram_loss"],
            "floor_bits_per_byte": entry["floor_bits_per_byte"],
            "bytes_per_token": entry["bytes_per_token"],
        }


Data = PreparedData | TaskData
"""What a run is trained on."""


def compute_fingerprint(files: dict[str, dict[str, Any]]) -> str:
    """Hash the files that a model is trained on: the tokenizer and the tokens."""
    deciding = [(name, files[name]["sha256"]) for name in sorted(files) if not name.endswith(PROVENANCE)]
    return hashlib.sha256(repr(deciding).encode()).hexdigest()


class FileEntry(TypedDict):
    """A file that a manifest lists."""

    bytes: int
    sha256: str


class TokenizerEntry(TypedDict):
    """The tokenizer in a manifest."""

    vocab_size: int
    eot_id: int
    sha256: str


class SplitEntry(TypedDict):
    """A split in a manifest."""

    documents: int
    bytes: int
    tokens: int
    unigram_loss: float
    bytes_per_token: float
    tokens_per_word: float | None
    floor_bits_per_byte: float | None


class CorpusEntry(TypedDict):
    """A corpus in a manifest."""

    source: str
    documents: int
    bytes: int
    splits: dict[str, SplitEntry]
    near_duplicates: dict[str, Any] | None


class DataSettings(TypedDict):
    """The settings of the corpora in a manifest."""

    language: dict[str, Any]
    code: dict[str, Any]


class AllSettings(TypedDict):
    """The settings in a manifest."""

    data: DataSettings


class Settings(TypedDict):
    """The part of a manifest that is compared with other settings."""

    settings: AllSettings


class Manifest(TypedDict):
    """The keys of a manifest that are checked when it is opened."""

    name: str
    fingerprint: str
    format_version: int
    tokenizer: TokenizerEntry
    corpora: dict[str, CorpusEntry]
    files: dict[str, FileEntry]
    settings: AllSettings


def load_prepared(folder: Path) -> PreparedData:
    """Open a prepared folder. Raises: UserError for a missing or damaged file, or another format version."""
    path = folder / MANIFEST
    content = read_record(path, dict[str, Any], REMEDY)
    if "fingerprint" not in content:
        raise UserError(f"{path}: not the manifest of prepared data; {REMEDY}")
    if (version := content.get("format_version")) != FORMAT_VERSION:
        raise UserError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}; {REMEDY}")
    manifest: Any = convert(path, content, Manifest, REMEDY)
    names = manifest["corpora"]
    if not names or not set(names) <= set(CORPORA):
        raise UserError(f"{path}: corpora: must be of {' and '.join(CORPORA)}; {REMEDY}")
    wanted = {f"{name}_{split}{kind}" for name in names for split in SPLITS for kind in (".npy", ".offsets.npy")}
    if lost := [name for name in CORPORA if name not in names and f"{name}_train.npy" in manifest["files"]]:
        raise UserError(f"{path}: has no corpus {lost[0]}, but its files; {REMEDY}")
    if missing := (wanted | {"tokenizer.json"}) - set(manifest["files"]):
        raise UserError(f"{path}: lists no {sorted(missing)[0]}; {REMEDY}")
    if not is_plain_name(manifest["name"]):
        raise UserError(
            f"{path}: name={replace_control_chars(manifest['name'])[:60]!r}: is not a folder name; {REMEDY}"
        )
    if compute_fingerprint(manifest["files"]) != manifest["fingerprint"]:
        raise UserError(f"{path}: its fingerprint differs from that of the files that it lists; {REMEDY}")
    _verify(folder, manifest)
    data = PreparedData(folder, manifest)
    _compare_with_files(data)
    return data


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Check the hash of all files that have changed since the last check. Raises: UserError naming the file."""
    known = find_record(folder / VERIFIED, dict[str, Any]) or {}
    stamps: dict[str, list[Any]] = {}
    for name, expected in manifest["files"].items():
        path = child_path(folder, name)
        if not path.is_file():
            raise UserError(f"{path}: missing; {REMEDY}")
        stamps[name] = [*_stamp(path), expected["sha256"]]
        if known.get(name) == stamps[name]:
            continue
        if (size := path.stat().st_size) != expected["bytes"]:
            raise UserError(f"{path}: has {size:,} bytes where {expected['bytes']:,} were written; {REMEDY}")
        if file_sha256(path) != expected["sha256"]:
            raise UserError(f"{path}: its content has changed since it was written; {REMEDY}")
    if known != stamps:
        with suppress(OSError):  # a read-only folder is checked each time
            write_record(folder / VERIFIED, stamps)


def _compare_with_files(data: PreparedData) -> None:
    """Compare the figures of the manifest with the files, for manifests of earlier versions without a digest.

    Raises: UserError.
    """
    path, stated = data.folder / MANIFEST, data.manifest["tokenizer"]
    tokenizer = load_tokenizer(data.tokenizer_path)
    actual = {
        "sha256": data.manifest["files"]["tokenizer.json"]["sha256"],
        "vocab_size": count_ids(tokenizer),
        "eot_id": get_eot_id(tokenizer, data.tokenizer_path),
    }
    for key, value in actual.items():
        if stated[key] != value:
            raise UserError(f"{path}: tokenizer.{key}={stated[key]}, but its tokenizer.json has {value}; {REMEDY}")
    for name in data.corpora:
        for split in SPLITS:
            entry = data.manifest["corpora"][name]["splits"].get(split)
            if entry is None:
                raise UserError(f"{path}: corpora.{name} has no split {split}; {REMEDY}")
            actual = {"tokens": len(data.tokens(name, split)), "documents": len(data.offsets(name, split))}
            for key, value in actual.items():
                if entry[key] != value:
                    place = f"corpora.{name}.splits.{split}.{key}"
                    raise UserError(f"{path}: {place}={entry[key]}, but its file has {value}; {REMEDY}")


def _open_array(path: Path, kinds: str) -> np.ndarray:
    """Memory-map a 1-D .npy file. kinds: allowed dtypes, separated by spaces. Raises: UserError."""
    try:
        values = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not a NumPy array ({first_line(error)}); {REMEDY}") from None
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.str not in kinds.split():
        raise UserError(f"{path}: not a one-dimensional array of type {kinds}; {REMEDY}")
    return values


def _stamp(path: Path) -> list[int]:
    """Return what changes when a file is written to; programs can set the mtime, but not the ctime."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def find_data(data: DataConfig, tokenizer: TokenizerConfig, output_root: Path) -> Data | None:
    """Return the task of these settings, or find their prepared data; None if there is none. Raises: UserError."""
    return TaskData(data) if data.is_task else find_prepared(data, tokenizer, output_root)


def find_prepared(data: DataConfig, tokenizer: TokenizerConfig, output_root: Path) -> PreparedData | None:
    """Find the prepared data of these settings or of `data.dir`; None if there is none.

    Local data without paths means the newest folder whose other settings are equal.
    Raises: UserError for a `data.dir` without prepared data, or a damaged folder.
    """
    if data.dir is not None:
        return load_data_dir(data.dir)
    folder = find_folder(prepared_folder(data, tokenizer, output_root))
    if (folder / MANIFEST).exists():
        return load_prepared(folder)
    local = [corpus for corpus in (data.language, data.code) if corpus.source == "local"]
    if not local or any(corpus.paths for corpus in local):
        return None
    wanted = _without_paths(hashed_settings(data, tokenizer))
    manifests = [path for path in folder.parent.glob("[!.]*/manifest.json") if not path.parent.name.endswith(".old")]
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        found = find_record(path, Settings)  # None: another folder is damaged, which does not concern this one
        if found and _without_paths(found["settings"]) == wanted:
            return load_prepared(path.parent)
    return None


def load_data_dir(name: str) -> PreparedData:
    """Open the folder of `data.dir`. Raises: UserError if it has no prepared data."""
    folder = find_folder(Path(name).expanduser())
    if not (folder / MANIFEST).is_file():
        raise UserError(f"data.dir={name}: no prepared data there; write some with python -m src.prepare")
    return load_prepared(folder)


def hashed_settings(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    """Collect the settings that decide the tokens; external tokenizers and generated text are included by hash."""
    values = asdict(data)
    del values["dir"], values["task"]  # text has no task
    if data.split == DataConfig.split:
        del values["split"]  # so that data of earlier versions are found
    for name in CORPORA:
        del values[name]["file_bytes"]  # the sha256 of each file decides
        for key in LATER_SETTINGS:  # left out while unset, so that data of earlier versions are found
            if values[name][key] is None:
                del values[name][key]
        values[name]["paths"] = [os.path.abspath(os.path.expanduser(path)) for path in values[name]["paths"]]
    generated = any(corpus.source in GENERATED for corpus in data.corpora.values())
    tokenizer_settings = asdict(tokenizer)
    for key in ("kind", "pattern"):
        if getattr(tokenizer, key) == getattr(TokenizerConfig, key):
            del tokenizer_settings[key]  # so that data of earlier versions are found
    if tokenizer.kind == "characters":
        del tokenizer_settings["vocab_size"]  # the text decides it
    for key in ("path", "compare"):
        if tokenizer_settings[key] is not None:
            tokenizer_settings[key] = file_sha256(find_tokenizer_file(f"tokenizer.{key}", tokenizer_settings[key]))
    return {"data": values, "tokenizer": tokenizer_settings, "generator": GENERATED_TEXT_HASH if generated else None}


def _without_paths(settings: Any) -> dict[str, Any]:
    settings = json.loads(json.dumps(settings))
    for name in CORPORA:
        settings["data"].get(name, {}).pop("paths", None)
    return settings


def prepared_folder(data: DataConfig, tokenizer: TokenizerConfig, output_root: Path) -> Path:
    """Return the folder of these settings; its name holds their hash."""
    digest = content_sha256([FORMAT_VERSION, hashed_settings(data, tokenizer)])
    return output_root / "data" / f"{data.name}-{digest[:8]}"
