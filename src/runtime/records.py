"""Read files that a crash, another program or a stranger may have written, and name what is wrong in one line.

A record is a JSON object with a schema: a TypedDict or dataclass that stands beside its writer. `write_record` adds a
SHA-256 of the content, so that `read_record` finds every changed byte; files of earlier versions have none.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec

from src.config.schema import UserError
from src.runtime.atomic_files import decode_json, read_bytes, write_json

DIGEST = "record_sha256"
PLAIN_NAME = re.compile(r"\w[\w.+-]{0,199}")
T = TypeVar("T")


def is_plain_name(name: object) -> bool:
    """Return whether a value is a text that names a file or folder, and never a path."""
    return isinstance(name, str) and PLAIN_NAME.fullmatch(name) is not None


def child_path(folder: Path, name: object, suffix: str = "") -> Path:
    """Return `folder/name`, or `folder/name<suffix>`: the one way from a name in a file to a path.

    Raises: UserError where the name is a path, or no text.
    """
    if not is_plain_name(name):
        raise UserError(f"{folder}: {str(name)[:60]!r} is no plain name of a file or folder; remove what names it")
    return folder / f"{name}{suffix}"


def run_path(sweep: Path, run: object, run_dir: object) -> Path:
    """Return the directory of a run of a sweep: beside the sweeps, or in the folder of a published one.

    Raises: UserError where the run has another place.
    """
    path = child_path(sweep / "../../runs", run)
    if run_dir == f"runs/{run}":
        return sweep / "runs" / path.name
    if run_dir != f"../../runs/{run}":
        raise UserError(f"{sweep / 'sweep.json'}: run_dir={str(run_dir)[:60]!r}: is not where runs are; remove the job")
    return path


def read_verified_json(path: Path, remedy: str, *, allow_links: bool = False) -> Any:
    """Read what `write_record` wrote, or any other JSON. Raises: UserError with file, what is wrong and the remedy."""
    content = decode_json(path, read_bytes(path, allow_links=allow_links), remedy)
    if isinstance(content, dict) and DIGEST in content and content.pop(DIGEST) != content_sha256(content):
        raise UserError(f"{path}: damaged: its content is not what was written; {remedy}")
    return content


def read_record(path: Path, kind: type[T], remedy: str, *, allow_links: bool = False) -> T:
    """Read a record: a value of `kind`, unless that is a TypedDict: then all that the file holds, once it is checked.

    Raises: UserError with the file, what is wrong with it and the remedy.
    """
    return convert(path, read_verified_json(path, remedy, allow_links=allow_links), kind, remedy)


def convert(path: Path, content: Any, kind: type[T], remedy: str) -> T:
    """Check plain values against a schema. Raises: UserError as `read_record`."""
    try:
        value = msgspec.convert(content, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise UserError(f"{path}: not as this program writes it ({error}); {remedy}") from None
    return cast(T, content) if isinstance(value, dict) else value


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a record atomically. Raises: ValueError for NaN, which is no JSON."""
    plain = json.loads(json.dumps({key: item for key, item in value.items() if key != DIGEST}, allow_nan=False))
    write_json(path, {**plain, DIGEST: content_sha256(plain)})


def content_sha256(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class MetricsDigest:
    """What a file of metrics holds, so that rows that are lost or changed later are found."""

    rows: int
    sha256: str
    """Of its lines."""


def digest_lines(lines: Iterable[str]) -> MetricsDigest:
    """Describe the lines of a file of metrics, each with its end of line."""
    digest, rows = hashlib.sha256(), 0
    for rows, line in enumerate(lines, 1):  # noqa: B007 (their count is wanted)
        digest.update(line.encode())
    return MetricsDigest(rows, digest.hexdigest())
