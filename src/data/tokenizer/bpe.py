r"""A byte-level BPE (Sennrich et al., 2016; bytes as in GPT-2) trained on the prepared text.

`tokenizer_config.json` beside `tokenizer.json`, as in Hugging Face, names the end-of-text token, which differs for
external tokenizers (`external.py`). Folders of earlier versions do not have it.

The alphabet is all 256 bytes and text is not normalized, so every text round-trips exactly. Before BPE, a pattern cuts
the text into pieces that no token crosses (measured at vocab_size 4096 on stories and scripts):

    [^\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+  a word with the space or symbol before it: ` the`, `$HOME`, `_name`, `'t`
     ?\p{N}                             single digits, so that no vocabulary is spent on numbers
     ?[^\s\p{L}\p{M}\p{N}]+             a run of symbols: `&&`, `"${`, `]]`, ` --`
    \n+[^\S\n]*                         line ends with the indentation after them: often one token per line of a script
    \s+(?!\S)|\s+                       other white space, without the last space, which belongs to the next word

Symbols before words save 2.4% of the tokens of scripts against letters alone; line ends with indentation save 1.5%.
`tokenizer.pattern=qwen2` is the pattern of Qwen 2, which llama.cpp has: from a GGUF file, it reads the same tokens.

A character tokenizer (`build_character_tokenizer`) has one token for each character of the prepared text. `encode`
reports any other character as an error.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from src.config.schema import UserError
from src.runtime.atomic_files import decode_json, read_bytes, write_json
from src.runtime.errors import first_line

# Encoding batches uses threads. Left unset, the library warns at every fork of the process after the first batch.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

EOT = "<|endoftext|>"
EOT_ID = 0
"""Id in the tokenizers that are trained here; `get_eot_id` returns it for any tokenizer."""
TOKENIZER_CONFIG = "tokenizer_config.json"
PATTERN = (
    r"[^\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+"
    r"|\n+[^\S\n]*"
    r"|\s+(?!\S)|\s+"
)
PATTERNS = {
    "own": PATTERN,
    "qwen2": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
        r"|[^\r\n\p{L}\p{N}]?\p{L}+"
        r"|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    ),
}
"""The patterns of `tokenizer.pattern`."""
MIN_VOCAB_SIZE = 256 + 1
MAX_VOCAB_SIZE = 2**20
UNKNOWN = "<|unknown|>"
"""Replacement of unknown characters in the library. No vocabulary has it, so such text is an error instead."""


def train_tokenizer(texts: Iterable[str], vocab_size: int, pattern: str = "own") -> Tokenizer:
    """Train a tokenizer of `vocab_size` tokens, fewer if the texts have too few repeated pieces; it is deterministic.

    pattern: the key of `PATTERNS` that cuts text before BPE. Raises: UserError if the size is out of range.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size}: must be {MIN_VOCAB_SIZE} (every byte and {EOT}) to {MAX_VOCAB_SIZE}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(PATTERNS[pattern]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a model would hardly learn a token that occurs once
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return disable_special_tokens(tokenizer)


def build_character_tokenizer(texts: Iterable[str], largest: int) -> Tokenizer:
    """Build a tokenizer with one token per character of the texts, by code point, after the end of text (id 0).

    Raises: UserError for more than `largest` tokens.
    """
    characters = sorted(set[str]().union(*texts))
    size = len(characters) + 1
    if size > largest:
        raise UserError(
            f"tokenizer.vocab_size={largest}: the text has {len(characters)} different characters; "
            f"set tokenizer.vocab_size={size} or more, or use tokenizer=bpe_4k"
        )
    vocabulary = {EOT: EOT_ID, **{character: index for index, character in enumerate(characters, EOT_ID + 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    split = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.pre_tokenizer = split  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([EOT])
    return disable_special_tokens(tokenizer)


def save_tokenizer(tokenizer: Tokenizer, eot: str, folder: Path) -> None:
    """Write a tokenizer in the format of Hugging Face, so that transformers can open the folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / TOKENIZER_CONFIG, tokenizer_config(eot))


def tokenizer_config(eot: str) -> dict[str, Any]:
    """Return the content of tokenizer_config.json: the end-of-text token, and special tokens in text are plain text."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": eot,
        "eos_token": eot,
        "pad_token": eot,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer.json of prepared data. Raises: UserError if it is missing or not valid."""
    if not path.is_file():
        raise UserError(f"{path}: no such tokenizer; run python -m src.prepare")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(
            f"{path}: not a tokenizer ({first_line(error)}); run python -m src.prepare rerun=true"
        ) from None
    name = read_eos_token(path)
    if tokenizer.token_to_id(name) is None:
        raise UserError(f"{path}: has no token {name}; run python -m src.prepare rerun=true")
    return disable_special_tokens(tokenizer)


def read_eos_token(path: Path) -> str:
    """Read the name of the end-of-text token for the tokenizer.json at `path`.

    Raises: UserError if the tokenizer_config.json beside it cannot be read, or holds half a surrogate pair.
    """
    file = path.with_name(TOKENIZER_CONFIG)
    remedy = "correct it, or prepare the data again"
    config = decode_json(file, read_bytes(file, allow_links=True), remedy) if os.path.lexists(file) else {}
    name = config.get("eos_token") if isinstance(config, dict) else None
    name = name.get("content") if isinstance(name, dict) else name
    if not isinstance(name, str):
        return EOT
    if name.encode("utf-8", "ignore").decode("utf-8") != name:
        raise UserError(f"{file}: eos_token={name[:40]!a}: is not valid text; give the end-of-text token")
    return name


def get_eot_id(tokenizer: Tokenizer, path: Path) -> int:
    """Return the id of the end-of-text token of a tokenizer that was loaded from `path`."""
    index = tokenizer.token_to_id(read_eos_token(path))
    assert index is not None, "checked by load_tokenizer"
    return index


def count_ids(tokenizer: Tokenizer) -> int:
    """Return the number of ids that a model needs; more than the tokens if ids have gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def disable_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Set the tokenizer to encode special tokens within a text as plain text; the library does not save this."""
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text without adding or stripping anything; special tokens are encoded as plain text.

    Raises: UserError for half a surrogate pair (Python's form of command-line bytes that are not UTF-8), and for a
        character that a character tokenizer does not have.
    """
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except TypeError:
        raise UserError(f"{text[:40]!a}: this text is not valid UTF-8; give it in UTF-8") from None
    except Exception:  # the library raises plain Exception
        if (unknown := _unknown_character(tokenizer, text)) is None:
            raise
        raise UserError(
            f"{text[:40]!a}: the tokenizer has no token for the character {unknown!a}, which its training "
            "text does not have; leave it out"
        ) from None


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Encode many texts in threads; the ids equal those of `encode`."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _unknown_character(tokenizer: Tokenizer, text: str) -> str | None:
    """Return the first character that a character tokenizer does not have, or None."""
    if not isinstance(tokenizer.model, models.WordLevel):
        return None
    return next((character for character in text if tokenizer.token_to_id(character) is None), None)


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """Return the bytes of text of each token: (n_ids,) int64, 0 for special tokens."""
    is_character_tokenizer = isinstance(tokenizer.model, models.WordLevel)
    lengths = np.zeros(count_ids(tokenizer), dtype=np.int64)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        # In the byte-level alphabet, each character stands for one byte.
        lengths[index] = len(token.encode()) if is_character_tokenizer else len(token)
    for index, added in tokenizer.get_added_tokens_decoder().items():
        lengths[index] = 0 if added.special else len(added.content.encode())
    return lengths
