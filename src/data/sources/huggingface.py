"""Fetch pinned files of a data set from the Hugging Face hub; a file is in place only when complete and verified.

    <cache>/hub/<repo>/<revision>/<file>                 verified against its sha256
                                  .<file>.incomplete     the part that is downloaded
                                  .<file>.verified.json  size, modification time and hash of the verified file

A verified file is used without a request, so a second run needs no network. `hf_hub_download` discards a partial
download when it fails (seen in huggingface_hub 2.4), which is costly for 2 GB. So the partial file is kept here, and
the library's `http_get` requests the rest. HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and proxy settings apply as usual.
`hf_xet` is not used, because it does not write to this file.
"""

import os
import re
import shutil
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers
from huggingface_hub.utils.logging import set_verbosity_error

from src.config.schema import CorpusConfig, UserError
from src.runtime.atomic_files import file_lock, file_sha256, remove_stale_temporaries, storage_remedy
from src.runtime.errors import first_line
from src.runtime.log import replace_control_chars
from src.runtime.records import find_record, write_record

constants.HF_HUB_DISABLE_TELEMETRY = True  # otherwise the library requests a list of agents and caches it in ~


def fetch_files(corpus: CorpusConfig, corpus_name: str, cache: Path) -> dict[str, Path]:
    """Return the verified files of a corpus, sorted by name; download missing ones.

    Raises: UserError for a file that cannot be downloaded or has another hash.
    """
    assert corpus.repo is not None and corpus.revision is not None, "checked by validation"
    files = {name: cache / "hub" / corpus.repo / corpus.revision / name for name in sorted(corpus.files)}
    for name, path in files.items():
        sha256 = corpus.files[name]
        with file_lock(path.with_name(f".{path.name}.lock")):
            if not os.path.lexists(path):
                _download(corpus.repo, corpus.revision, path, name, corpus, f"data.{corpus_name}")
            elif not _is_verified(path, sha256):  # placed manually, or changed since
                _verify_and_move(path, path, sha256, f"data.{corpus_name}.files.{name}")
    return files


def _download(repo: str, revision: str, path: Path, name: str, corpus: CorpusConfig, key: str) -> None:
    """Download the rest of a file, verify it and move it into place."""
    sha256, pinned = corpus.files[name], corpus.file_bytes.get(name)
    incomplete = path.with_name(f".{path.name}.incomplete")
    url = hf_hub_url(repo, name, repo_type="dataset", revision=revision)
    set_verbosity_error()  # warnings of each retry would hide the error line
    try:
        metadata = get_hf_file_metadata(url)
        if metadata.commit_hash is None or metadata.size is None or metadata.size < 0:
            raise errors.FileMetadataError
        if re.fullmatch(r"[0-9a-f]{64}", metadata.etag or "") and metadata.etag != sha256:
            raise UserError(
                f"{key}.files.{name}={sha256}: the hub has sha256 {metadata.etag}; correct it or the revision"
            )
        if pinned is not None and metadata.size != pinned:
            raise UserError(
                f"{key}.file_bytes.{name}={pinned}: the hub has {metadata.size} bytes; correct it or the revision"
            )
        _check_free_space(incomplete, metadata.size, f"{key}.files.{name}")
        _download_rest(incomplete, url, metadata.size)
    except Exception as error:  # from several libraries, which depend on the version of huggingface_hub
        if isinstance(error, UserError) or storage_remedy(error):
            raise
        raise UserError(f"{key}.{_describe_error(error, repo, revision, name, url, path)}") from None
    _verify_and_move(incomplete, path, sha256, f"{key}.files.{name}")


def _check_free_space(incomplete: Path, size: int, key: str) -> None:
    """Check that the rest of the download fits on the disk. Raises: UserError."""
    missing = size - (incomplete.stat().st_size if incomplete.exists() else 0)
    if missing > (free := shutil.disk_usage(incomplete.parent).free):
        raise UserError(f"{key}: has {size:,} bytes, but only {free:,} are free on the disk; free some space")


class _BoundedFile:
    """A file with a maximum size, for servers that send too much."""

    def __init__(self, handle: IO[bytes], size: int) -> None:
        self._handle, self._size = handle, size

    def write(self, data: bytes) -> int:
        """Write data. Raises: FileMetadataError if the file would exceed its size."""
        if self._handle.tell() + len(data) > self._size:
            raise errors.FileMetadataError
        return self._handle.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handle, name)


def _download_rest(incomplete: Path, url: str, size: int) -> None:
    """Append the missing part of a URL's content to a file, up to the announced size."""
    if incomplete.is_symlink():
        incomplete.unlink()
    with incomplete.open("ab") as handle:
        if handle.tell() > size:
            handle.seek(0)
            handle.truncate()
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a compressed stream cannot be resumed
        try:
            http_get(
                url,
                cast(BinaryIO, _BoundedFile(handle, size)),
                resume_size=handle.tell(),
                headers=headers,
                expected_size=size,
                displayed_filename=url.rsplit("/", 1)[1],
            )
        except errors.FileMetadataError:  # the server sent more than the announced size
            incomplete.unlink()
            raise
        except OSError as error:
            if type(error) is OSError and error.errno is None:  # complete, but not of the announced size
                incomplete.unlink()
                raise errors.FileMetadataError from None
            raise
        os.fsync(handle.fileno())


def _stamp(path: Path, sha256: str) -> dict[str, object]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": sha256}


def _stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.verified.json")


def _is_verified(path: Path, sha256: str) -> bool:
    return path.is_file() and find_record(_stamp_path(path), dict[str, Any]) == _stamp(path, sha256)


def _verify_and_move(file: Path, path: Path, sha256: str, key: str) -> None:
    """Verify a file and move it to its path, or remove it. Raises: UserError if its hash differs."""
    if not file.is_file():
        raise UserError(f"{key}: {file} is not a file; move it away")
    found = file_sha256(file)
    if found != sha256:
        file.unlink()
        raise UserError(
            f"{key}={sha256}: the file has sha256 {found} and was removed; repeat the command, "
            "and if that does not help, check HF_ENDPOINT and your proxy"
        )
    os.replace(file, path)
    remove_stale_temporaries(path.parent, _stamp_path(path).name)
    write_record(_stamp_path(path), _stamp(path, sha256))


def _describe_error(error: Exception, repo: str, revision: str, name: str, url: str, path: Path) -> str:
    """Describe an error of the library by key, value and remedy."""
    hub = constants.ENDPOINT
    by_hand = f"or fetch {url} elsewhere and put it at {path}"
    match error:
        case errors.GatedRepoError():
            return f"repo={repo}: its terms are not accepted yet; accept them on {hub} and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return f"repo={repo}: no such data set on {hub}, unless it is private; correct it or set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"revision={revision}: {repo} has no such commit; correct it"
        case errors.RemoteEntryNotFoundError():
            return f"files.{name}: {repo} has no such file at revision {revision}; correct the name"
        case errors.OfflineModeIsEnabled():
            return f"files.{name}: not downloaded yet, and HF_HUB_OFFLINE is set; unset it, {by_hand}"
        case errors.FileMetadataError():
            return f"files.{name}: {hub} does not answer like a hub; check HF_ENDPOINT and your proxy, {by_hand}"
        case errors.HfHubHTTPError():
            status = error.response.status_code
            remedy = {401: "set HF_TOKEN", 403: "set HF_TOKEN", 404: "check HF_ENDPOINT"}.get(status, "try again later")
            return f"files.{name}: {hub} answers with status {status}; {remedy}, {by_hand}"
    reason = replace_control_chars(first_line(error))
    return f"files.{name}: {hub}: {reason}; repeat the command to resume the download, {by_hand}"
