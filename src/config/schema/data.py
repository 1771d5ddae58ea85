"""The text that models are trained on, and its tokenizer."""

from dataclasses import dataclass, field

from src.config.schema.task import TaskConfig
from src.config.setting import BYTES, MISSING, SEED, SHARE, TOKENS, Range, setting

TASK = "task"
"""The corpus of data that is a synthetic task."""

FROM_PATHS = ("local", "datatrove")
"""The sources that read files of this machine."""


@dataclass
class HygieneConfig:
    """Filters for code (BigCode's practice); stories need none of them."""

    max_document_bytes: int = setting(200_000, "Leave out longer documents.", BYTES)
    max_line_length: int = setting(
        1000, "Leave out documents with a longer line, which are data.", BYTES._replace(unit="characters")
    )
    max_mean_line_length: int = setting(
        100, "Leave out longer lines on average, which are minified.", BYTES._replace(unit="characters")
    )
    min_alphanumeric_share: float = setting(0.25, "Smallest share of letters and digits among the characters.", SHARE)
    drop_generated: bool = setting(True, "Leave out files whose first lines say that a program wrote them.")
    drop_near_duplicates: bool = setting(True, "Leave out documents that share most words with an earlier one.")
    replace_secrets: bool = setting(True, "Replace keys, passwords, e-mail and IP addresses by placeholders.")


@dataclass
class CorpusConfig:
    """Where the documents of one corpus come from."""

    source: str = setting(
        "local",
        "Kind of source. stories and scripts are generated; git is for code alone; datatrove reads text that datatrove "
        "has tokenized.",
        choices=("stories", "scripts", "local", "hub", "git", "datatrove"),
    )
    paths: list[str] = setting(
        [],
        "Files, folders and globs, for the sources local and datatrove. A corpus without them is left out, if "
        "the other has text.",
        form="path",
    )
    extensions: list[str] = setting(
        [], "Extensions of the files to read in a folder. Scripts are also found by their shebang."
    )
    separator: str | None = setting(
        None,
        "Text between documents of a text file. null: `<|endoftext|>`. A separator with a letter separates anywhere in "
        "a line; one without, such as `---`, has to be on its own line.",
    )
    text_field: str | None = setting(
        None,
        "Field with the text in .jsonl, .json, .parquet and .arrow. null: `text`, or the only text field.",
    )
    max_bytes: int | None = setting(None, "Stop after this much text. Generated sources generate this much.", BYTES)
    repo: str | None = setting(None, "Data set of the Hugging Face hub as owner/name, for the hub source.")
    revision: str | None = setting(None, "Commit of the data set.")
    files: dict[str, str] = setting(
        {}, "Files of the data set, each with its SHA-256. They are .txt, .jsonl, .json or .parquet, compressed or not."
    )
    file_bytes: dict[str, int] = setting(
        {}, "Size of each file, where known. A download of another size is refused before it begins.", BYTES
    )
    licence: str | None = setting(None, "License of the data set, recorded with every document.")
    max_tokens: int | None = setting(
        None, "Approximate tokens for training. No document begins after them; held-out text is not limited.", TOKENS
    )
    near_duplicates: str = setting(
        "drop",
        "What to do with near duplicates of held-out documents. report keeps them, off does not look. Generated text "
        "is never searched.",
        choices=("drop", "report", "off"),
    )
    repositories: str | None = setting(
        None,
        "List of repositories, for the git source. A name in conf/repositories, or a YAML file of that form.",
        form="path",
    )
    max_documents_per_group: int | None = setting(
        None,
        "Documents of a repository, for the git source. They are chosen by a hash; null: all.",
        Range(1, 10**15, unit="documents"),
    )
    licences: list[str] | None = setting(
        None,
        "Licenses of code to keep. SPDX names, `permissive` for all that only require a notice, or `any`. "
        "null: permissive for the git source, any for your own files.",
    )
    hygiene: HygieneConfig = field(default_factory=HygieneConfig)
    sha256: str | None = setting(
        None, "SHA-256 of the one file in `paths`, for the local source. Another file is refused."
    )


@dataclass
class DataConfig:
    """The text of both stages and its split, or a synthetic task."""

    name: str = setting(MISSING, "Name of the data.", form="name")
    seed: int = setting(0, "Seed of generated text and of the split. Training has a seed of its own.", SEED)
    language: CorpusConfig = field(default_factory=CorpusConfig)
    code: CorpusConfig = field(default_factory=CorpusConfig)
    split: str = setting(
        "group",
        "How text is held out. group: whole groups of documents (a repository, a package, or a single document), "
        "chosen by a hash. position: the first part of each corpus is for training, the next for validation, the last "
        "for the test.",
        choices=("group", "position"),
    )
    val_fraction: float = setting(0.05, "Share of the text for validation.", SHARE)
    test_fraction: float = setting(
        0.05, "Share of the text for the test. 0, with split=position alone: only validation is reported.", SHARE
    )
    dir: str | None = setting(
        None, "Folder written by `python -m src.prepare`. null: found by the settings above.", form="path"
    )

    task: TaskConfig = field(default_factory=TaskConfig)

    @property
    def is_task(self) -> bool:
        """Whether the data is a synthetic task: generated for each batch, without text and tokenizer."""
        return self.task.name != "none"

    @property
    def corpora(self) -> dict[str, CorpusConfig]:
        """The corpora that there are: one of FROM_PATHS without paths is left out, if the other one has text.

        Both, where neither has paths: prepared data decides then. Of a task, one that nothing is read from.
        """
        if self.is_task:
            return {TASK: CorpusConfig()}
        both = {"language": self.language, "code": self.code}
        return {
            name: corpus for name, corpus in both.items() if corpus.source not in FROM_PATHS or corpus.paths
        } or both


@dataclass
class TokenizerConfig:
    """A byte-level BPE or an alphabet made from the data, or an existing tokenizer."""

    name: str = setting(MISSING, "Name of the tokenizer.", form="name")
    vocab_size: int = setting(
        MISSING,
        "Tokens of a bpe, at least 257. It has fewer if the text has too few repeated pieces. With kind=characters the "
        "text decides, and this is the most that it may need.",
        Range(2, 2**20, unit="tokens"),
    )
    code_share: float = setting(
        0.5, "Share of code in the text it is trained on. The rest is language. One corpus alone is all of it.", SHARE
    )
    path: str | None = setting(
        None,
        "An existing tokenizer to use instead. A tokenizer.json of Hugging Face's tokenizers, or a folder with one.",
        form="path",
    )
    eot: str | None = setting(
        None, "End-of-text token of that tokenizer. null: from its tokenizer_config.json, or a common one."
    )
    compare: str | None = setting(
        None,
        "Another tokenizer to compare with on held-out text. A path, as `path`; the figures go into the manifest.",
        form="path",
    )
    kind: str = setting(
        "bpe",
        "Kind of tokenizer. characters: one token for each character of the prepared text, held-out text included. "
        "none: the tokens of a task are numbers.",
        choices=("bpe", "characters", "none"),
    )
    pattern: str = setting(
        "own",
        "Pattern that cuts text before bpe. qwen2: one that llama.cpp has; a GGUF file then reads text as here.",
        choices=("own", "qwen2"),
    )
