"""Prepared data as the rest of the program sees it: a folder that is checked when it is opened, then only read."""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from src.config import DataConfig, TokenizerConfig, UserError
from src.data.given_tokenizer import tokenizer_file
from src.data.sources import GENERATED
from src.runtime.files import read_json, sha256_of, write_json

FORMAT_VERSION = 2
CORPORA = ("language", "code")
MANIFEST = "manifest.json"
CARD = "DATA_CARD.md"
PROVENANCE = (".offsets.npy", ".documents.npy", ".origins.jsonl")
"""Endings of files that say more of the same tokens."""
VERIFIED = ".verified.json"
"""Beside the manifest: size, times and number of each file when its content was last found to be the manifest's."""
REMEDY = "prepare it again with python -m src.prepare rerun=true"


@dataclass(frozen=True)
class PreparedData:
    """A folder of token files, their tokenizer, and the manifest that describes them."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the contents: equal fingerprints, equal tokens."""
        return self.manifest["fingerprint"]

    @property
    def vocab_size(self) -> int:
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def eot_id(self) -> int:
        return self.manifest["tokenizer"]["eot_id"]

    @property
    def tokenizer_path(self) -> Path:
        return self.folder / "tokenizer.json"

    def tokens(self, corpus: str, split: str) -> np.ndarray:
        """Open a split: 1-D token ids, read from disk as they are used."""
        return np.load(self.folder / f"{corpus}_{split}.npy", mmap_mode="r")

    def offsets(self, corpus: str, split: str) -> np.ndarray:
        """Open where the end of text before each document of a split stands: (n_documents,) uint64."""
        return np.load(self.folder / f"{corpus}_{split}.offsets.npy", mmap_mode="r")

    def references(self, corpus: str, split: str) -> dict[str, float | None]:
        """Return what a loss is compared with: uniform and unigram loss (nats a token), floor, bytes per token."""
        entry = self.manifest["corpora"][corpus]["splits"][split]
        return {
            "uniform_loss": float(np.log(self.vocab_size)),
            "unigram_loss": entry["unigram_loss"],
            "floor_bits_per_byte": entry["floor_bits_per_byte"],
            "bytes_per_token": entry["bytes_per_token"],
        }


def fingerprint_of(files: dict[str, dict[str, Any]]) -> str:
    """Hash the files that decide what a model learns: the tokenizer and the tokens."""
    deciding = [(name, files[name]["sha256"]) for name in sorted(files) if not name.endswith(PROVENANCE)]
    return hashlib.sha256(repr(deciding).encode()).hexdigest()


def load_prepared(folder: Path) -> PreparedData:
    """Open a prepared folder. Raises: UserError naming the file that is missing, damaged or of another version."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict) or "fingerprint" not in manifest:
        raise UserError(f"{path}: not the manifest of prepared data; {REMEDY}")
    if manifest.get("format_version") != FORMAT_VERSION:
        version = manifest.get("format_version")
        raise UserError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}; {REMEDY}")
    if not isinstance(manifest.get("files"), dict) or fingerprint_of(manifest["files"]) != manifest["fingerprint"]:
        raise UserError(f"{path}: its fingerprint is not that of the files it lists; {REMEDY}")
    _verify(folder, manifest)
    return PreparedData(folder, manifest)


def _verify(folder: Path, manifest: dict[str, Any]) -> None:
    """Check the content of all files; those that are as they were when last checked are not read.

    Raises: UserError naming the file that is missing or another.
    """
    known = _read_verified(folder)
    stamps: dict[str, list[Any]] = {}
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; {REMEDY}")
        stamps[name] = [*_stamp(path), expected["sha256"]]
        if known.get(name) == stamps[name]:
            continue
        if (size := path.stat().st_size) != expected["bytes"]:
            raise UserError(f"{path}: has {size:,} bytes where {expected['bytes']:,} were written; {REMEDY}")
        if sha256_of(path) != expected["sha256"]:
            raise UserError(f"{path}: its content has changed since it was written; {REMEDY}")
    if known != stamps:
        with suppress(OSError):  # a folder that cannot be written to is checked each time
            write_json(folder / VERIFIED, stamps)


def _read_verified(folder: Path) -> dict[str, Any]:
    try:
        stamps = read_json(folder / VERIFIED)
    except UserError:
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _stamp(path: Path) -> list[int]:
    """Tell a file from what it becomes when it is written to: the system alone sets the second time."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def find_prepared(data: DataConfig, tokenizer: TokenizerConfig, output_root: Path) -> PreparedData | None:
    """Find what `prepare_data` wrote for these settings, or the folder that `data.dir` names; None: not prepared yet.

    Local data without any paths means the newest folder of which all other settings agree.
    Raises: UserError for a `data.dir` without prepared data, or a damaged folder.
    """
    if data.dir is not None:
        return load_given(data.dir)
    folder = folder_of(data, tokenizer, output_root)
    if (folder / MANIFEST).exists():
        return load_prepared(folder)
    corpora = [getattr(data, name) for name in CORPORA]
    if any(corpus.paths or corpus.source != "local" for corpus in corpora):
        return None
    wanted = _without_paths(settings_of(data, tokenizer))
    manifests = [path for path in folder.parent.glob("[!.]*/manifest.json") if not path.parent.name.endswith(".old")]
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            settings = read_json(path)["settings"]
        except (UserError, KeyError, TypeError):  # some other folder is damaged: not what was asked for
            continue
        if _without_paths(settings) == wanted:
            return load_prepared(path.parent)
    return None


def load_given(name: str) -> PreparedData:
    """Open the folder that `data.dir` names. Raises: UserError if it is none."""
    folder = Path(name).expanduser()
    if not (folder / MANIFEST).is_file():
        raise UserError(f"data.dir={name}: no prepared data there; write some with python -m src.prepare")
    return load_prepared(folder)


def settings_of(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    """Gather what decides the tokens.

    Other tokenizers count by content, and the generators by their own code, so that editing them makes new data.
    """
    values = asdict(data)
    del values["dir"]
    for name in CORPORA:
        values[name]["paths"] = [os.path.abspath(os.path.expanduser(path)) for path in values[name]["paths"]]
    generated = any(getattr(data, name).source in GENERATED for name in CORPORA)
    words = asdict(tokenizer)
    for key in ("path", "compare"):
        if words[key] is not None:
            words[key] = sha256_of(tokenizer_file(f"tokenizer.{key}", words[key]))
    return {"data": values, "tokenizer": words, "generator": _generator_hash() if generated else None}


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    settings = json.loads(json.dumps(settings))
    for name in CORPORA:
        settings.get("data", {}).get(name, {}).pop("paths", None)
    return settings


@cache
def _generator_hash() -> str:
    folder = Path(__file__).parent / "embedded"
    files = sorted(folder.rglob("*.py"))
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()[:16]


def folder_of(data: DataConfig, tokenizer: TokenizerConfig, output_root: Path) -> Path:
    """Name the folder of these settings."""
    text = json.dumps([FORMAT_VERSION, settings_of(data, tokenizer)], sort_keys=True)
    return output_root / "data" / f"{data.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
