"""Lists of repositories to fetch, with their commits and licenses."""

import os
import re
from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path

from src.config.schema import CONF, CorpusConfig, UserError
from src.runtime.atomic_files import load_yaml
from src.runtime.log import replace_control_chars

ADDRESS = re.compile(r"(?:https?|ssh|git|file)://[^\s/]*/\S+|[\w.-]+@[\w.-]+:[^\s:]\S*")
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@dataclass(frozen=True)
class Repository:
    """An entry of a list of repositories."""

    url: str
    commit: str | None = None
    """None: the newest commit at the time of fetching, which is recorded."""
    licence: str | None = None
    """SPDX name of the license of files for which the repository has none."""
    subfolder: str | None = None
    """Only files below this folder are read."""

    @property
    def name(self) -> str:
        """The address without protocol and credentials, such as github.com/tj/n."""
        host_and_path = self.url.partition("://")[2] or self.url.replace(":", "/", 1)
        return host_and_path.rpartition("@")[2].removesuffix("/").removesuffix(".git").strip("/")


def load_repositories(corpus: CorpusConfig, corpus_name: str) -> list[Repository]:
    """Read the list that a corpus names: conf/repositories/NAME.yaml, or a file of the user.

    Raises: UserError for a missing list or an invalid entry.
    """
    folder, name = CONF / "repositories", corpus.repositories or ""
    key = f"data.{corpus_name}.repositories={corpus.repositories}"
    path = Path(name).expanduser() if "/" in name or name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    try:
        if not os.path.lexists(path):
            there = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            raise UserError(f"{key}: no such list; choose one of {there}, or give the path of a YAML file")
        entries = load_yaml(path, allow_links=True)
    except OSError as error:
        raise UserError(f"{key}: cannot be read ({error.strerror})") from None
    except UserError as error:
        raise error if str(error).startswith(key) else UserError(f"{key}: not a readable YAML file ({error})") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{key}: must be a list of repositories, such as `- url: https://github.com/tj/n`")
    repositories = [_to_repository(entry, f"{key}: entry {number}") for number, entry in enumerate(entries, 1)]
    twice = [name for name, count in Counter(repository.name for repository in repositories).items() if count > 1]
    if twice:
        raise UserError(f"{key}: {twice[0]} is named twice; leave one out")
    return repositories


def _to_repository(entry: object, where: str) -> Repository:
    known = [item.name for item in fields(Repository)]
    if not isinstance(entry, dict) or "url" not in entry:
        raise UserError(f"{where}: must have a url, such as `- url: https://github.com/tj/n`")
    for item, value in entry.items():
        if item not in known:
            raise UserError(f"{where}: {_to_printable(item)}: no such key; there are {', '.join(known)}")
        if not (isinstance(value, str) or (value is None and item != "url")):
            raise UserError(f"{where}: {item}={_to_printable(value)}: must be a text in quotes, or null")
        if value is not None and not value.isprintable():
            raise UserError(f"{where}: {item}={_to_printable(value)}: has characters that cannot be shown; correct it")
    repository = Repository(**entry)
    if not ADDRESS.fullmatch(repository.url):
        raise UserError(
            f"{where}: url={repository.url}: must begin with https://, ssh://, git://, file:// or user@host:"
        )
    if repository.commit is not None and not COMMIT.fullmatch(repository.commit):
        raise UserError(f"{where}: commit={repository.commit}: must be a whole commit, 40 hex digits, or null")
    subfolder = (repository.subfolder or "").strip("/")
    if ".." in subfolder.split("/"):
        raise UserError(f"{where}: subfolder={repository.subfolder}: must be within the repository")
    return replace(repository, subfolder=subfolder or None)


def _to_printable(value: object) -> str:
    return replace_control_chars(str(value)[:200]).replace("\n", " ")
