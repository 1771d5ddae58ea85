"""Prepare data: read -> clean -> split by group -> train the tokenizer -> pack tokens, once, into a folder.

    manifest.json  DATA_CARD.md  tokenizer.json  tokenizer_config.json
    <corpus>_<split>.npy  .offsets.npy  .documents.npy  <corpus>.origins.jsonl    (language, code; train, val, test)

The folder's name holds a hash of all settings that decide its contents, and its manifest a fingerprint of the contents.
The folder appears only when it is complete. Until then the work is in a folder beside it; finished steps of a killed
process are reused by the next one, unless the input has changed.
"""

import json
import os
import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from src.config.schema import CorpusConfig, DataConfig, TokenizerConfig, UserError
from src.data.dataset import (
    CARD,
    FORMAT_VERSION,
    MANIFEST,
    PreparedData,
    find_prepared,
    hashed_settings,
    load_data_dir,
    load_prepared,
    prepared_folder,
)
from src.data.preparation.data_card import render_data_card
from src.data.preparation.pipeline import Pipeline
from src.data.sources.local import check_sha256, list_local_files
from src.data.sources.repository_list import load_repositories
from src.data.sources.token_shards import SOURCE as DATATROVE
from src.data.sources.token_shards import index_of, list_shards
from src.data.tokenizer.external import check_tokenizer
from src.runtime.atomic_files import (
    file_lock,
    move_folder,
    recover_folder,
    reject_symlinks,
    remove_leftovers,
    remove_path,
    remove_stale_temporaries,
    write_text,
)
from src.runtime.log import LogFunction, replace_control_chars
from src.runtime.records import read_record, write_record

WORK_VERSION = 4
"""Increase when the files of unfinished work change, so that work of an earlier version is restarted."""

SPEED = ".speed.json"
"""Beside the folders of data, whose content depends only on text and settings."""


class Speed(TypedDict):
    """How fast data was prepared on this machine."""

    bytes_per_second: float


__all__ = ["PreparedData", "find_prepared", "load_prepared", "prepare_data"]


def prepare_data(
    data: DataConfig, tokenizer: TokenizerConfig, output_root: Path, rerun: bool = False, log: LogFunction = print
) -> PreparedData:
    """Write the folder of these settings under `output_root/data`, or open it if it is up to date.

    Raises: UserError for wrong settings or text; no folder is written then.
    """
    if data.dir is not None:
        return load_data_dir(data.dir)
    log = printable_log(log)
    folder = prepared_folder(data, tokenizer, output_root)
    if rerun or not (folder / MANIFEST).exists():
        check_tokenizer(tokenizer)
    inputs = {name: _inputs(corpus, name) for name, corpus in data.corpora.items()}
    with file_lock(folder.with_name(f".lock-{folder.name}")):
        recover_folder(folder)
        remove_stale_temporaries(folder.parent)  # of the measured speed
        remove_path(folder.with_name(f"{folder.name}.old"))  # left by a process that was killed while moving folders
        work = folder.with_name(f".{folder.name}.work")
        if not rerun and (prepared := _load_if_current(folder, inputs, log)):
            remove_path(work)
            log(f"prepared already: {folder}")
            return prepared
        settings_record = {
            "format_version": FORMAT_VERSION,
            "inputs": inputs,
            "settings": hashed_settings(data, tokenizer),
        }
        is_resumed, started = _open_work_folder(work, settings_record, log), time.monotonic()
        try:
            contents = Pipeline(data, tokenizer, work, output_root / "sources", log).run()
        except UserError:  # after a correction, this work is out of date
            shutil.rmtree(work)
            raise
        manifest = {"name": data.name, **contents, **settings_record}
        write_record(work / "out" / MANIFEST, manifest)
        write_text(work / "out" / CARD, render_data_card(manifest))
        if folder.is_symlink() or not folder.is_dir():
            remove_path(folder)
        move_folder(work / "out", folder)
        shutil.rmtree(work)
        if not is_resumed:
            n_bytes = sum(corpus["bytes"] for corpus in manifest["corpora"].values())
            write_record(folder.with_name(SPEED), {"bytes_per_second": n_bytes / (time.monotonic() - started)})
        return load_prepared(folder)


def measured_speed(root: Path) -> float | None:
    """Return the bytes of text per second of the last preparation under `root`, if one ran without a pause."""
    with suppress(UserError):
        return read_record(root / "data" / SPEED, Speed, "")["bytes_per_second"]
    return None


def _open_work_folder(work: Path, settings_record: dict[str, Any], log: LogFunction) -> bool:
    """Create the work folder, or keep that of an earlier process with the same settings and input: True."""
    path = work / "settings.json"
    wanted = json.loads(json.dumps({"work_version": WORK_VERSION, **settings_record}))
    if (work / "out").is_dir() and path.exists():
        try:
            reject_symlinks(work)
            if read_record(path, dict[str, Any], "") == wanted:
                log(f"resuming an earlier attempt: {work}")
                for place in (work, work / "out"):
                    remove_leftovers(place)
                return True
        except UserError as error:
            log(f"starting over: {error}")
    remove_path(work)
    (work / "out").mkdir(parents=True)
    write_record(path, wanted)
    return False


def _inputs(corpus: CorpusConfig, name: str) -> list[list[Any]]:
    """List path, size and modification time of the files of a local corpus, or the repositories of a git corpus."""
    if corpus.source == "git":
        return [list(asdict(item).values()) for item in load_repositories(corpus, name)]
    if corpus.source == DATATROVE:
        paths = [file for shard in list_shards(corpus, name) for file in (shard, index_of(shard)) if file.exists()]
    elif corpus.source == "local":
        paths = list_local_files(corpus, name, Counter())
        check_sha256(corpus, name, paths)
    else:
        return []
    files = [(file, file.stat()) for file in paths]
    return [[os.path.abspath(file), stat.st_size, stat.st_mtime_ns] for file, stat in files]


def _load_if_current(folder: Path, inputs: dict[str, Any], log: LogFunction) -> PreparedData | None:
    if not folder.exists():
        return None
    if not folder.is_symlink():
        remove_stale_temporaries(folder)
    try:
        prepared = load_prepared(folder)
    except UserError as error:
        log(f"preparing again: {error}")
        return None
    if prepared.manifest.get("inputs") != inputs:
        log(f"preparing again: the input files of {folder} have changed")
        return None
    return prepared


def printable_log(log: LogFunction) -> LogFunction:
    """Return a log function that escapes control characters."""
    return lambda line: log(replace_control_chars(line))
