"""Records: JSON files with a schema and a checksum. Reading reports damage in one line.

The schema is a TypedDict or dataclass in the module that writes it. `write_record` adds a SHA-256 of the content, which
`read_record` verifies; files of earlier versions have none.
"""

import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from src.config.schema import UserError
from src.runtime.atomic_files import MAX_FILE_BYTES, decode_json, read_bytes, write_bytes, write_json

DIGEST = "record_sha256"
PLAIN_NAME = re.compile(r"\w[\w.+-]{0,199}")
T = TypeVar("T")


def is_plain_name(name: object) -> bool:
    """Return whether a value is a plain name of a file or folder, not a path."""
    return isinstance(name, str) and PLAIN_NAME.fullmatch(name) is not None


def child_path(folder: Path, name: object, suffix: str = "") -> Path:
    """Return `folder/name<suffix>`. Every name read from a file becomes a path by this function.

    Raises: UserError if the name is not a plain name.
    """
    if not is_plain_name(name):
        raise UserError(f"{folder}: {str(name)[:60]!r} is not a plain name of a file or folder; remove the entry")
    return folder / f"{name}{suffix}"


def run_path(sweep: Path, run: object, run_dir: object) -> Path:
    """Return the run directory of a job: in `runs` beside the sweeps, or in the folder of a published sweep.

    Raises: UserError if `run_dir` is another path.
    """
    path = child_path(sweep / "../../runs", run)
    if run_dir == f"runs/{run}":
        return sweep / "runs" / path.name
    if run_dir != f"../../runs/{run}":
        raise UserError(
            f"{sweep / 'sweep.json'}: run_dir={str(run_dir)[:60]!r}: is not a directory of runs; remove the job"
        )
    return path


def read_verified_json(path: Path, remedy: str) -> Any:
    """Read JSON, compressed if it is named `.gz`, and verify its checksum if it has one.

    Raises: UserError with the file, the damage and the remedy.
    """
    content = decode_json(path, read_gzip(path, remedy) if path.suffix == ".gz" else read_bytes(path), remedy)
    if isinstance(content, dict) and DIGEST in content and content.pop(DIGEST) != content_sha256(content):
        raise UserError(f"{path}: damaged: its content differs from its checksum; {remedy}")
    return content


def read_gzip(path: Path, remedy: str) -> bytes:
    """Read a compressed file. Raises: UserError where it is damaged, or grows beyond what is read of any file."""
    packed = read_bytes(path)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:80]}); {remedy}") from None
    if len(content) > MAX_FILE_BYTES:
        raise UserError(f"{path}: damaged (more than {MAX_FILE_BYTES:,} bytes when decompressed); {remedy}")
    return content


def read_record(path: Path, kind: type[T], remedy: str) -> T:
    """Read a record of type `kind`. For a TypedDict, unknown keys of the file are kept.

    Raises: UserError with the file, the damage and the remedy.
    """
    return convert(path, read_verified_json(path, remedy), kind, remedy)


def find_record(
    path: Path, kind: type[T], remedy: str = "", report: Callable[[str], object] = lambda line: None
) -> T | None:
    """Read a record; None if it is missing or damaged. report: receives the damage and the remedy in one line."""
    if not os.path.lexists(path):
        return None
    try:
        return read_record(path, kind, remedy)
    except UserError as error:
        report(str(error))
        return None


def convert(path: Path, content: Any, kind: type[T], remedy: str) -> T:
    """Validate plain values against a schema. Raises: UserError as `read_record`."""
    try:
        value = msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UserError(f"{path}: not the format of this program ({error}); {remedy}") from None
    return cast(T, content) if isinstance(value, dict) else value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record atomically, compressed if it is named `.gz`. Raises: ValueError for NaN, which JSON lacks."""
    plain = json.loads(json.dumps({key: item for key, item in value.items() if key != DIGEST}, allow_nan=False))
    record = {**plain, DIGEST: content_sha256(plain)}
    if path.suffix == ".gz":
        write_bytes(path, gzip.compress(json.dumps(record).encode(), mtime=0))
    else:
        write_json(path, record)


def content_sha256(content: object) -> str:
    """Return the SHA-256 of plain values, independent of the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class MetricsDigest:
    """Row count and hash of a metrics file, to detect rows that are lost or changed later."""

    rows: int
    sha256: str


def digest_lines(lines: Iterable[str]) -> MetricsDigest:
    """Return the digest of the lines of a metrics file, each with its end of line."""
    digest, rows = hashlib.sha256(), 0
    for rows, line in enumerate(lines, 1):  # noqa: B007 (the count is used)
        digest.update(line.encode())
    return MetricsDigest(rows, digest.hexdigest())
