"""Checks of the settings of text, its sources and its tokenizer. No torch."""

import re
from dataclasses import fields

from src.config.schema import CorpusConfig, DataConfig, TokenizerConfig, UserError
from src.data.document import GENERATED
from src.data.sources.file_formats import RECORDS, file_extension, unsupported_reason
from src.data.sources.repository_list import load_repositories
from src.data.sources.token_shards import SOURCE as DATATROVE
from src.data.tokenizer.bpe import MIN_VOCAB_SIZE
from src.runtime.log import replace_control_chars

MAX_GENERATED_BYTES = 10**10


def check_data(data: DataConfig, tokenizer: TokenizerConfig) -> None:
    """Check the settings of the text and its tokenizer, or that a task has none. Raises UserError."""
    if data.is_task != (tokenizer.kind == "none"):
        wanted = "none" if data.is_task else "bpe_4k"
        what = f"data.task.name={data.task.name} has tokens of its own" if data.is_task else "the data is text"
        raise UserError(f"tokenizer.kind={tokenizer.kind}: {what}; give tokenizer={wanted}")
    if data.is_task:
        return
    for name in ("language", "code"):
        corpus: CorpusConfig = getattr(data, name)
        _check_source(f"data.{name}", corpus)
        if corpus.source == "hub":
            _check_hub(f"data.{name}", corpus)
        elif corpus.source == "git":
            _check_git(name, corpus)
        elif corpus.source == DATATROVE:
            _check_datatrove(data, name, tokenizer)
        _check_hygiene(name, corpus)
        if corpus.source in GENERATED and (corpus.max_bytes or 0) > MAX_GENERATED_BYTES:
            raise UserError(
                f"data.{name}.max_bytes={corpus.max_bytes}: generated text is at most {MAX_GENERATED_BYTES} bytes"
            )
    val, test = data.val_fraction, data.test_fraction
    tests = test > 0 or data.split == "position"  # where nothing is drawn, there can be no test text
    if not (val > 0 and tests and val + test < 1):
        raise UserError(f"data.val_fraction={val}, data.test_fraction={test}: both must be above 0, their sum below 1")
    _check_tokenizer(data, tokenizer)


def _check_tokenizer(data: DataConfig, tokenizer: TokenizerConfig) -> None:
    """Check the settings of the tokenizer of a text. Raises UserError."""
    characters = tokenizer.kind == "characters"
    if not characters and tokenizer.vocab_size < MIN_VOCAB_SIZE:
        raise UserError(
            f"tokenizer.vocab_size={tokenizer.vocab_size}: must be at least {MIN_VOCAB_SIZE}, every byte and "
            "the end of text; tokenizer=characters has fewer"
        )
    if characters and tokenizer.path is not None:
        raise UserError(
            f"tokenizer.path={tokenizer.path}: is not made from the text; leave out tokenizer.kind=characters"
        )
    if len(data.corpora) == 1 and tokenizer.code_share != TokenizerConfig.code_share:
        raise UserError(
            f"tokenizer.code_share={tokenizer.code_share}: data={data.name} has only {next(iter(data.corpora))} text; "
            "leave it out"
        )
    if characters and tokenizer.code_share != TokenizerConfig.code_share:
        raise UserError(
            f"tokenizer.code_share={tokenizer.code_share}: tokenizer.kind=characters reads all text; leave it out"
        )
    if tokenizer.path is not None and tokenizer.code_share != TokenizerConfig.code_share:
        raise UserError(f"tokenizer.code_share={tokenizer.code_share}: tokenizer.path is not trained; leave it out")
    if tokenizer.pattern != TokenizerConfig.pattern and (characters or tokenizer.path is not None):
        given = "tokenizer.kind=characters" if characters else "tokenizer.path"
        raise UserError(f"tokenizer.pattern={tokenizer.pattern}: has no effect with {given}; leave it out")
    if tokenizer.path is None and tokenizer.eot is not None:
        raise UserError(f"tokenizer.eot={tokenizer.eot}: is for a tokenizer that tokenizer.path names; leave it out")


READ_BY: dict[str, tuple[str, ...]] = {
    "paths": ("local", DATATROVE, *GENERATED),
    **dict.fromkeys(("separator", "text_field"), ("local", "hub")),
    "sha256": ("local",),
    **dict.fromkeys(("repo", "revision", "files", "file_bytes", "licence"), ("hub",)),
    **dict.fromkeys(("repositories", "max_documents_per_group"), ("git",)),
}
"""The sources that accept a setting of a corpus; all sources accept the other settings."""


def _check_source(key: str, corpus: CorpusConfig) -> None:
    """Check that the source reads each setting that is given, and how its files are read. Raises UserError."""
    for item, sources in READ_BY.items():
        value = getattr(corpus, item)
        if value not in (None, [], {}) and corpus.source not in sources:
            raise UserError(
                f"{key}.{item}={value}: source={corpus.source} does not read it; leave it out, or source={sources[0]}"
            )
    for item in ("separator", "text_field"):
        value = getattr(corpus, item)
        if value is not None and (not value or not value.isprintable() or value != value.strip()):
            raise UserError(f"{key}.{item}={value!r}: must be printable characters without blanks around them")
    if corpus.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", corpus.sha256):
        raise UserError(f"{key}.sha256={corpus.sha256}: must be the SHA-256 of the file, 64 hex digits")


def _check_hub(key: str, corpus: CorpusConfig) -> None:
    """Check the settings of the hub source. Raises UserError."""
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", corpus.repo or ""):
        raise UserError(f"{key}.repo={corpus.repo}: must be a data set of the hub, such as roneneldan/TinyStories")
    if not re.fullmatch(r"[0-9a-f]{40}", corpus.revision or ""):
        raise UserError(f"{key}.revision={corpus.revision}: must be a whole commit, 40 hex digits: a branch can move")
    if not corpus.files:
        raise UserError(f"{key}.files is empty: name the files and their sha256, as conf/data does for TinyStories")
    for name, sha256 in corpus.files.items():
        is_path = all(re.fullmatch(r"\w[\w .+@=,-]*", part) for part in name.split("/"))
        refusal = unsupported_reason(name, (), "language")
        if not is_path or refusal or file_extension(name) not in (".txt", *RECORDS):
            more = f": {refusal}" if refusal else ", .json, .parquet or .arrow in the data set, compressed or not"
            raise UserError(f"{key}.files.{replace_control_chars(name)}: must be the path of a .txt or .jsonl{more}")
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise UserError(f"{key}.files.{name}={sha256}: must be its sha256, 64 hex digits")
    if unknown := next((name for name in corpus.file_bytes if name not in corpus.files), None):
        raise UserError(f"{key}.file_bytes.{unknown}: no such file in {key}.files; leave it out")


def _check_git(name: str, corpus: CorpusConfig) -> None:
    """Check the settings of the git source. Raises UserError."""
    key = f"data.{name}"
    if name != "code":
        raise UserError(f"{key}.source=git: repositories are a source of code; choose another")
    if not corpus.extensions:
        raise UserError(f"{key}.extensions is empty: say what to take of the repositories, such as [.sh,.bash]")
    load_repositories(corpus, name)


def _check_datatrove(data: DataConfig, name: str, tokenizer: TokenizerConfig) -> None:
    """Check that nothing is asked for that needs the text, which is tokenized already. Raises UserError."""
    key, corpus, default = f"data.{name}", getattr(data, name), CorpusConfig()
    for item in fields(CorpusConfig):
        value = getattr(corpus, item.name)
        if item.name not in ("source", "paths", "max_tokens") and value != getattr(default, item.name):
            raise UserError(f"{key}.{item.name}={value}: source={DATATROVE} is tokenized already; leave it out")
    if tokenizer.path is None:
        raise UserError(f"tokenizer.path: {key}.source={DATATROVE} needs the tokenizer that datatrove used")
    if tokenizer.compare is not None:
        raise UserError(f"tokenizer.compare={tokenizer.compare}: {key} has no text to compare with; leave it out")
    if data.split == "position":
        raise UserError(f"data.split=position: {key}.source={DATATROVE} is split by document; leave it out")


def _check_hygiene(name: str, corpus: CorpusConfig) -> None:
    """Check the settings that apply to code only. Raises UserError."""
    key, hygiene = f"data.{name}", corpus.hygiene
    changed = [item.name for item in fields(hygiene) if getattr(hygiene, item.name) != item.default]
    if (name != "code" or corpus.source in GENERATED) and (changed or corpus.licences is not None):
        item = f"hygiene.{changed[0]}" if changed else "licences"
        reason = "is no code" if name != "code" else f"source={corpus.source} is generated"
        raise UserError(f"{key}.{item}: {reason}, so it would change nothing; leave it out")
    names = corpus.licences
    if names is not None and (not names or ("any" in names and len(names) > 1)):
        raise UserError(f"{key}.licences={names}: must be [any], or name licences, such as [permissive,MPL-2.0]")
