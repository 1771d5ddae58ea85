r"""A byte-level BPE (Sennrich et al., 2016; bytes as in GPT-2) trained on the prepared text of both corpora.

`tokenizer_config.json` beside `tokenizer.json`, as Hugging Face has it, names the token that ends a text: it is another
where a tokenizer of another make is used (`given_tokenizer.py`). A folder without it is of before there were any.

The alphabet is all 256 bytes and nothing is normalised, so every text comes back exactly as it went in. Before BPE a
pattern cuts the text into pieces that no token crosses (measured at vocab_size 4096 on stories and scripts):

    [^\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+  a word with the space or sign before it: ` the`, `$HOME`, `_name`, `'t`
     ?\p{N}                             digits one by one: the vocabulary goes to words, and all numbers look alike
     ?[^\s\p{L}\p{M}\p{N}]+             a run of signs: `&&`, `"${`, `]]`, ` --`
    \n+[^\S\n]*                         line ends with the indentation after them: often one token a line of a script
    \s+(?!\S)|\s+                       other white space, leaving the last space to the word after it

Signs before words save 2.4% of the tokens of scripts against letters alone, line ends with indentation 1.5%.

A tokenizer of characters (`build_character_tokenizer`) has one token for each character of all prepared text. It can
encode no other character; `encode` then names the character.
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
"""Of the tokenizers that we train; `get_eot_id` tells that of any."""
TOKENIZER_CONFIG = "tokenizer_config.json"
PATTERN = (
    r"[^\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+"
    r"|\n+[^\S\n]*"
    r"|\s+(?!\S)|\s+"
)
MIN_VOCAB_SIZE = 256 + 1
MAX_VOCAB_SIZE = 2**20
UNKNOWN = "<|unknown|>"
"""What the library would put for an unknown character. It is in no vocabulary, so such a text is an error instead."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a tokenizer with exactly `vocab_size` tokens; the same texts give the same tokenizer.

    Raises: UserError if the size is out of range, or if the texts have too few repeated pieces to reach it.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size}: must be {MIN_VOCAB_SIZE} (every byte and {EOT}) to {MAX_VOCAB_SIZE}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a token seen once in the training text would hardly be learned
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    reached = tokenizer.get_vocab_size()
    if reached < vocab_size:
        raise UserError(
            f"tokenizer.vocab_size={vocab_size}: the text gives {reached} tokens only; "
            f"set tokenizer.vocab_size={reached} or less, or give more text (the smaller corpus decides)"
        )
    return disable_special_tokens(tokenizer)


def build_character_tokenizer(texts: Iterable[str], largest: int) -> Tokenizer:
    """Build a tokenizer with one token for each character of the texts, by code point, after the end of text (id 0).

    Raises: UserError if that makes more than `largest` tokens.
    """
    characters = sorted(set[str]().union(*texts))
    size = len(characters) + 1
    if size > largest:
        raise UserError(
            f"tokenizer.vocab_size={largest}: the text has {len(characters)} different characters; "
            f"set tokenizer.vocab_size={size} or more, or take tokenizer=bpe_4k"
        )
    vocabulary = {EOT: EOT_ID, **{character: index for index, character in enumerate(characters, EOT_ID + 1)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    split = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.pre_tokenizer = split  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.add_special_tokens([EOT])
    return disable_special_tokens(tokenizer)


def save_tokenizer(tokenizer: Tokenizer, eot: str, folder: Path) -> None:
    """Write a tokenizer as Hugging Face does, so that transformers opens the folder too."""
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / TOKENIZER_CONFIG, tokenizer_config(eot))


def tokenizer_config(eot: str) -> dict[str, Any]:
    """Write what tokenizer.json leaves open: which token ends a text, and that within a text it is plain text."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": eot,
        "eos_token": eot,
        "pad_token": eot,
        "split_special_tokens": True,
        "clean_up_tokenization_spaces": False,
    }


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer.json. Raises: UserError if it is missing, or is none that data was prepared with."""
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
    """Return the name of the token that ends a text, for the tokenizer.json at `path`.

    Raises: UserError where the file beside it cannot be read, or holds half a surrogate pair.
    """
    beside = path.with_name(TOKENIZER_CONFIG)
    remedy = "correct it, or prepare the data again"
    config = decode_json(beside, read_bytes(beside, allow_links=True), remedy) if os.path.lexists(beside) else {}
    name = config.get("eos_token") if isinstance(config, dict) else None
    name = name.get("content") if isinstance(name, dict) else name
    if not isinstance(name, str):
        return EOT
    if name.encode("utf-8", "ignore").decode("utf-8") != name:
        raise UserError(f"{beside}: eos_token={name[:40]!a}: is no text; name the token that ends a text")
    return name


def get_eot_id(tokenizer: Tokenizer, path: Path) -> int:
    """Return the id of that token, for a tokenizer that was loaded from `path`."""
    index = tokenizer.token_to_id(read_eos_token(path))
    assert index is not None, "load_tokenizer has seen to it"
    return index


def count_ids(tokenizer: Tokenizer) -> int:
    """Return how many ids a model of this tokenizer has to know; some tokenizers leave gaps."""
    return max(tokenizer.get_vocab().values()) + 1


def disable_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Have `<|endoftext|>` within a text encoded as the characters it is; so too any other special token.

    The library does not save this setting.
    """
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Encode a text as it stands: nothing added or stripped, and never the id of a special token.

    Raises: UserError for half a surrogate pair, which is how Python holds bytes of a command line that are not UTF-8,
        and for a character that a tokenizer of characters does not have.
    """
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except TypeError:
        raise UserError(f"{text[:40]!a}: this text is not valid UTF-8; give it in UTF-8") from None
    except Exception:  # the library raises plain Exception
        if (unknown := _unknown_character(tokenizer, text)) is None:
            raise
        raise UserError(
            f"{text[:40]!a}: the tokenizer has no token for the character {unknown!a}, which the text that it was made "
            "from does not have; leave it out"
        ) from None


def encode_batch(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    """Encode many texts at once, in threads; the same ids as `encode`."""
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def _unknown_character(tokenizer: Tokenizer, text: str) -> str | None:
    """Return the first character that a tokenizer of characters does not have; None where there is none."""
    if not isinstance(tokenizer.model, models.WordLevel):
        return None
    return next((character for character in text if tokenizer.token_to_id(character) is None), None)


def byte_lengths(tokenizer: Tokenizer) -> np.ndarray:
    """Count the bytes of text that each token stands for: (n_ids,) int64, 0 for special ones."""
    of_characters = isinstance(tokenizer.model, models.WordLevel)
    lengths = np.zeros(count_ids(tokenizer), dtype=np.int64)
    for token, index in tokenizer.get_vocab(with_added_tokens=False).items():
        # In the byte-level alphabet a character is a byte.
        lengths[index] = len(token.encode()) if of_characters else len(token)
    for index, added in tokenizer.get_added_tokens_decoder().items():
        lengths[index] = 0 if added.special else len(added.content.encode())
    return lengths
