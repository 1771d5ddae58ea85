"""Fetch repositories and read code from them, with the commit and license of every file.

A repository is fetched once, without history and large files (`--depth 1 --filter=blob:limit`), and never checked out:
files are read from git's object database. So an untrusted repository cannot choose file names on the disk, and its
symbolic links, submodules, hooks and filters have no effect. A fetched repository is complete. One that cannot be
fetched is reported, counted and left out.

    <cache>/git/<name>-<hash of its address>@<commit>     a bare repository; @newest if no commit is pinned
    <cache>/git/<list>.pinned.yaml                        the list with the commits that were used
"""

import hashlib
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import TypedDict

import yaml
from tqdm import tqdm

from src.config.schema import CorpusConfig, UserError
from src.data.document import UNKNOWN, Document, count_dropped
from src.data.filters.licenses import MAX_LICENSE_BYTES, LicenseFinder, header_license, normalize_license
from src.data.sources.local import normalize_extensions
from src.data.sources.repository_list import COMMIT, Repository, load_repositories
from src.data.sources.shell_detection import is_code_file, may_be_code
from src.data.sources.text_files import decode
from src.runtime.atomic_files import (
    file_lock,
    file_sha256,
    reject_symlinks,
    remove_leftovers,
    remove_path,
    replace_folder,
    write_text,
)
from src.runtime.log import replace_control_chars
from src.runtime.records import read_record, write_record

CONTENTS = "fetched.json"
"""Record in each repository: the files that were fetched."""
MISSING = re.compile(r"\s*(?:broken link from +tree|to +blob|missing blob) [0-9a-f]+")
"""Output of git for a file that was not fetched."""
MAX_PARALLEL_FETCHES = 4
TIMEOUT_SECONDS = 900
ENVIRONMENT = {
    "GIT_TERMINAL_PROMPT": "0",  # a password prompt would wait forever
    "GIT_ASKPASS": "true",
    "SSH_ASKPASS": "true",
    "GCM_INTERACTIVE": "never",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=30",
    "GIT_ALLOW_PROTOCOL": "https:ssh:git:http:file",
    "GIT_LFS_SKIP_SMUDGE": "1",
    "LC_ALL": "C",
}
SETTINGS = {
    "core.hooksPath": os.devnull,
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "1000",  # bytes per second for a minute: the server does not respond
    "http.lowSpeedTime": "60",
}


def read_git(
    corpus: CorpusConfig, corpus_name: str, seed: int, dropped: Counter[str], cache: Path
) -> Iterator[Document]:
    """Fetch all repositories, then yield their code files in the order of the list. The seed is not used.

    Raises: UserError if git is missing, or if no repository can be fetched.
    """
    repositories = load_repositories(corpus, corpus_name)
    key = f"data.{corpus_name}.repositories={corpus.repositories}"
    folders = fetch_repositories(repositories, cache / "git", corpus.hygiene.max_document_bytes, key, dropped)
    used = [replace(item, commit=_read_head(folder)) for item, folder in folders.items()]
    if any(item.commit is None for item in repositories):
        pinned = cache / "git" / f"{Path(corpus.repositories or '').stem}.pinned.yaml"
        write_text(pinned, yaml.safe_dump([asdict(item) for item in used], sort_keys=False, width=1000))
    extensions = normalize_extensions(corpus.extensions)
    for repository, folder in zip(used, folders.values(), strict=True):
        yield from _read_repository(repository, folder, extensions, dropped)


def fetch_repositories(
    repositories: list[Repository], folder: Path, limit: int, key: str, dropped: Counter[str]
) -> dict[Repository, Path]:
    """Fetch missing repositories in parallel; return the bare repositories.

    limit: the largest file, in bytes. Raises: UserError, beginning with `key`, if none can be fetched.
    """
    found: dict[Repository, Path] = {}
    failed: list[str] = []
    with file_lock(folder / ".lock"), ThreadPoolExecutor(MAX_PARALLEL_FETCHES) as pool:
        remove_leftovers(folder)
        jobs = [pool.submit(fetch_repository, repository, folder, limit) for repository in repositories]
        try:
            progress = tqdm(jobs, desc="fetching", unit=" repositories", disable=None, leave=False)
            for repository, job in zip(repositories, progress, strict=True):
                result = job.result()
                if isinstance(result, Path):
                    found[repository] = result
                else:
                    failed.append(f"{repository.name}: {result}")
                    tqdm.write(replace_control_chars(f"left out {failed[-1]}"))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if not found:
        raise UserError(f"{key}: no repository could be fetched; {failed[0]}; check the network and the list")
    for failure in failed:
        count_dropped(dropped, "repository that could not be fetched", 0, failure)
    return found


def fetch_repository(repository: Repository, folder: Path, limit: int) -> Path | str:
    """Fetch one repository unless it is present; return its folder, or the reason of the failure."""
    target = repository_folder(repository, folder, limit)
    newest = repository_folder(replace(repository, commit=None), folder, limit)
    for there in (target, newest):
        if os.path.lexists(there) and is_intact(there):
            if there == target or _read_head(there) == repository.commit:
                return there
        elif os.path.lexists(there) and there == target:
            tqdm.write(
                replace_control_chars(f"{repository.name}: the fetched repository is damaged; fetching it again")
            )
            remove_path(there)
    wanted = repository.commit or "HEAD"
    try:
        with replace_folder(target) as temporary:
            _git(temporary, "init", "--quiet", "--bare", "--template=")
            limits = ["--depth=1", f"--filter=blob:limit={limit + 1}", "--no-tags", "--no-recurse-submodules"]
            _git(temporary, "fetch", "--quiet", *limits, "--", repository.url, wanted)
            # With the remote, git would fetch each omitted file when it is read.
            _git(temporary, "config", "--remove-section", f"remote.{repository.url}", allowed=(0, 128))
            (temporary / "HEAD").write_text(_git(temporary, "rev-parse", "FETCH_HEAD^{commit}"), encoding="ascii")
            (temporary / "FETCH_HEAD").unlink()
            _write_contents(temporary)
    except _GitError as error:
        return str(error)
    return target


class Contents(TypedDict):
    """The SHA-256 of each file of a fetched repository."""

    files: dict[str, str]


def _hash_files(folder: Path) -> dict[str, str]:
    """Hash the files of a bare repository. Raises: UserError for a link among them."""
    reject_symlinks(folder)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CONTENTS)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}


def _write_contents(folder: Path) -> None:
    write_record(folder / CONTENTS, {"files": _hash_files(folder)})


def is_intact(folder: Path) -> bool:
    """Return whether a repository is as fetched; git checks one of an earlier version, once."""
    try:
        if not COMMIT.fullmatch(_read_head(folder)):
            return False
        if (folder / CONTENTS).exists():
            return read_record(folder / CONTENTS, Contents, "")["files"] == _hash_files(folder)
        # Only files that were too large to fetch may be missing (status 2).
        found = _git(folder, "fsck", "--full", "--no-dangling", "--no-progress", allowed=(0, 2)).splitlines()
        if not all(map(MISSING.match, found)) or not _list_files(folder, _read_head(folder)):
            return False
        _write_contents(folder)
    except (UserError, OSError, ValueError, _GitError):
        return False
    return True


def repository_folder(repository: Repository, folder: Path, limit: int) -> Path:
    """Return the folder of a repository; its name has the address, the commit and the size limit of files."""
    address = hashlib.sha256(repository.url.encode()).hexdigest()[:8]
    short = re.sub(r"[^\w.-]+", "-", "/".join(repository.name.split("/")[-2:]))
    return folder / f"{short}-{address}@{repository.commit or 'newest'}-{limit}"


class _GitError(Exception):
    """git failed; the message is one line of its output."""


def _git(folder: Path, *arguments: str, allowed: tuple[int, ...] = (0,)) -> str:
    """Run git in a bare repository. Raises: _GitError with the most useful line of its output.

    allowed: exit statuses that are not a failure.
    """
    with tempfile.TemporaryFile() as stderr:  # git's child processes would keep a pipe open after a timeout
        try:
            done = subprocess.run(
                _git_command(folder, *arguments),
                env=_git_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except FileNotFoundError:
            raise UserError("git: not found; install it, it fetches the repositories (data.code.source=git)") from None
        except subprocess.TimeoutExpired:
            raise _GitError(f"not fetched within {TIMEOUT_SECONDS} s") from None
        if done.returncode not in allowed:
            stderr.seek(0)
            lines = stderr.read().decode(errors="replace").splitlines()
            errors = (
                [line for line in lines if line.startswith(("fatal:", "error:", "remote:", "ssh:"))] or lines or ["?"]
            )
            if "could not read Username" in errors[0]:
                raise _GitError("it does not exist or is private")
            raise _GitError(replace_control_chars(errors[0].removeprefix("fatal: ")[:200]))
        return done.stdout.decode(errors="replace").strip()


def _git_command(folder: Path, *arguments: str) -> list[str]:
    settings = [item for key, value in SETTINGS.items() for item in ("-c", f"{key}={value}")]
    return ["git", f"--git-dir={folder}", *settings, *arguments]


def _git_environment() -> dict[str, str]:
    """Return the environment without variables that select another repository, as set within a git hook."""
    tied = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES")
    return {key: value for key, value in os.environ.items() if key not in tied} | ENVIRONMENT


def _read_head(folder: Path) -> str:
    return (folder / "HEAD").read_text(encoding="ascii").strip()


def _read_repository(
    repository: Repository, folder: Path, extensions: set[str], dropped: Counter[str]
) -> Iterator[Document]:
    """Yield the code of a repository, sorted by path."""
    commit = repository.commit or ""
    try:
        files = _list_files(folder, commit)
    except _GitError as error:
        raise UserError(f"{folder}: cannot be read ({error}); remove it, and repeat the command") from None
    below = f"{repository.subfolder}/" if repository.subfolder else ""
    with _Blobs(folder) as blobs:
        license_finder = _license_finder(files, blobs)
        _warn_if_license_differs(repository, license_finder.find(""))
        for path in (path for path in files if path.startswith(below) and may_be_code(path, extensions)):
            raw = blobs.read(files[path])
            if raw is None:
                if PurePosixPath(path).suffix.lower() in extensions:  # other files may not be code
                    count_dropped(dropped, "too large", 0, f"{repository.name}/{path}")
            elif (
                is_code_file(path, raw, extensions)
                and (text := decode(raw, dropped, f"{repository.name}/{path}")) is not None
            ):
                license_name = header_license(text) or license_finder.find(os.path.dirname(path))
                if license_name == UNKNOWN and repository.licence:
                    license_name = normalize_license(repository.licence)
                yield Document(text, repository.name, path, license_name, commit)


def _warn_if_license_differs(repository: Repository, found: str) -> None:
    if repository.licence and found not in (UNKNOWN, normalize_license(repository.licence)):
        used = f"not {repository.licence} as in the list; using {found}"
        tqdm.write(replace_control_chars(f"{repository.name}: its license is {found}, {used}"))


def _list_files(folder: Path, commit: str) -> dict[str, str]:
    """List the plain files of a commit as path -> blob, sorted by path, without symbolic links and submodules."""
    listed = _git(folder, "ls-tree", "-r", "-z", "--full-tree", commit)
    entries = (entry.partition("\t") for entry in listed.split("\0") if entry)
    return {path: mode.split()[2] for mode, _, path in entries if mode.startswith("100")}


def _license_finder(files: dict[str, str], blobs: "_Blobs") -> LicenseFinder:
    names: dict[str, list[str]] = {}
    for path in files:
        names.setdefault(os.path.dirname(path), []).append(os.path.basename(path))

    def read(path: str) -> str:
        return (blobs.read(files[path]) or b"")[:MAX_LICENSE_BYTES].decode(errors="replace")

    return LicenseFinder(lambda folder: names.get(folder, []), read, lambda folder: folder == "")


class _Blobs:
    """Reads file contents by their hash through one git process."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            _git_command(folder, "cat-file", "--batch"),
            env=_git_environment() | {"GIT_ALLOW_PROTOCOL": "none"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> "_Blobs":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()

    def read(self, blob: str) -> bytes | None:
        """Return the content, or None if it was too large to fetch."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{blob}\n".encode())
        self._process.stdin.flush()
        header = self._process.stdout.readline().split()
        if len(header) != 3:  # "<hash> missing"
            return None
        content = self._process.stdout.read(int(header[2]) + 1)
        return content[:-1]
