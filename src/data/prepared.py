"""Prepared data as the rest of the program sees it: a folder that is checked when it is opened, then only read."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from src.config import DataConfig, TokenizerConfig, UserError
from src.data.sources import GENERATED
from src.runtime.files import read_json, sha256_of

FORMAT_VERSION = 1
CORPORA = ("language", "code")
SPLITS = ("train", "val", "test")
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

    def references(self, corpus: str, split: str) -> dict[str, float | None]:
        """Return what a loss is compared with: uniform and unigram loss (nats a token), floor, bytes per token."""
        entry = self.manifest["corpora"][corpus]["splits"][split]
        return {
            "uniform_loss": float(np.log(self.vocab_size)),
            "unigram_loss": entry["unigram_loss"],
            "floor_bits_per_byte": entry["floor_bits_per_byte"],
            "bytes_per_token": entry["bytes_per_token"],
        }


def load_prepared(folder: Path) -> PreparedData:
    """Open a prepared folder. Raises: UserError naming the file that is missing, damaged or of another version."""
    path = folder / "manifest.json"
    manifest = read_json(path)
    if not isinstance(manifest, dict) or "fingerprint" not in manifest:
        raise UserError(f"{path}: not the manifest of prepared data; {REMEDY}")
    if manifest.get("format_version") != FORMAT_VERSION:
        version = manifest.get("format_version")
        raise UserError(f"{path}: format version {version}, this program reads {FORMAT_VERSION}; {REMEDY}")
    data = PreparedData(folder, manifest)
    for corpus in CORPORA:
        for split in SPLITS:
            _check_tokens(data, corpus, split)
    if not data.tokenizer_path.is_file():
        raise UserError(f"{data.tokenizer_path}: missing; {REMEDY}")
    if sha256_of(data.tokenizer_path) != manifest["tokenizer"]["sha256"]:
        raise UserError(f"{data.tokenizer_path}: not the tokenizer that wrote the tokens; {REMEDY}")
    return data


def _check_tokens(data: PreparedData, corpus: str, split: str) -> None:
    path = data.folder / f"{corpus}_{split}.npy"
    if not path.is_file():
        raise UserError(f"{path}: missing; {REMEDY}")
    expected = data.manifest["corpora"][corpus]["splits"][split]["tokens"]
    try:
        tokens = data.tokens(corpus, split)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: damaged ({error}); {REMEDY}") from None
    if tokens.shape != (expected,) or tokens.dtype.kind != "u":
        raise UserError(f"{path}: holds {tokens.shape} of {tokens.dtype} where {expected} tokens belong; {REMEDY}")


def find_prepared(data: DataConfig, tokenizer: TokenizerConfig, output_root: Path) -> PreparedData | None:
    """Find what `prepare_data` wrote for these settings, or the folder that `data.dir` names; None: not prepared yet.

    Local data without any paths means the newest folder of which all other settings agree.
    Raises: UserError for a `data.dir` without prepared data, or a damaged folder.
    """
    if data.dir is not None:
        return load_given(data.dir)
    folder = folder_of(data, tokenizer, output_root)
    if (folder / "manifest.json").exists():
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
    if not (folder / "manifest.json").is_file():
        raise UserError(f"data.dir={name}: no prepared data there; write some with python -m src.prepare")
    return load_prepared(folder)


def settings_of(data: DataConfig, tokenizer: TokenizerConfig) -> dict[str, Any]:
    """Gather what decides the tokens; the generators' own code is among it, so that editing them makes new data."""
    values = asdict(data)
    del values["dir"]
    for name in CORPORA:
        values[name]["paths"] = [os.path.abspath(os.path.expanduser(path)) for path in values[name]["paths"]]
    generated = any(getattr(data, name).source in GENERATED for name in CORPORA)
    return {"data": values, "tokenizer": asdict(tokenizer), "generator": _generator_hash() if generated else None}


def _without_paths(settings: dict[str, Any]) -> dict[str, Any]:
    settings = json.loads(json.dumps(settings))
    for name in CORPORA:
        settings.get("data", {}).get(name, {}).pop("paths", None)
    return settings


def _generator_hash() -> str:
    folder = Path(__file__).parent / "embedded"
    files = sorted(folder.rglob("*.py"))
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()[:16]


def folder_of(data: DataConfig, tokenizer: TokenizerConfig, output_root: Path) -> Path:
    """Name the folder of these settings."""
    text = json.dumps([FORMAT_VERSION, settings_of(data, tokenizer)], sort_keys=True)
    return output_root / "data" / f"{data.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
