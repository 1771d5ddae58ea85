"""Take a tokenizer of another make, after a proof that it serves; and compare one with ours on the same text.

Bits per byte need to know how many bytes each token stands for, and a model is only as honest as its tokenizer is
exact. So it has to be byte-level, such as those of GPT-2, Llama 3, Qwen and StarCoder, and to give back whatever went
in. That is tried on every character of the first plane of Unicode, on some of the others, and on white space and
combining characters in all positions: a normalizer, a lost space or an unknown character shows there.
"""

import json
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from src.config.schema import TokenizerConfig, UserError
from src.data.tokenizer.bpe import (
    EOT,
    MAX_VOCAB_SIZE,
    byte_lengths,
    count_ids,
    disable_special_tokens,
    encode_batch,
    read_eos_token,
)
from src.runtime.errors import first_line

COMMON_EOS_TOKENS = (EOT, "<|read_eos_token|>", "</s>", "<eos>", "<|eos|>")
"""What ends a text by custom, where no tokenizer_config.json says so."""


def find_tokenizer_file(key: str, name: str) -> Path:
    """Find the tokenizer.json that a setting names, by itself or by its folder. Raises: UserError if there is none."""
    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{key}={name}: no tokenizer.json there; give such a file, or a folder that holds one")
    return path


def open_tokenizer(key: str, name: str) -> Tokenizer:
    """Open a tokenizer of any make, without limits of length. Raises: UserError if it is none."""
    path = find_tokenizer_file(key, name)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{key}={name}: not a tokenizer of Hugging Face's tokenizers ({first_line(error)})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return disable_special_tokens(tokenizer)


def load_external_tokenizer(settings: TokenizerConfig) -> tuple[Tokenizer, str]:
    """Return the tokenizer that `tokenizer.path` names, and the token that ends a text. Raises: UserError."""
    assert settings.path is not None
    key = f"tokenizer.path={settings.path}"
    tokenizer = open_tokenizer("tokenizer.path", settings.path)
    eot = _find_eot(tokenizer, settings)
    if (size := count_ids(tokenizer)) != settings.vocab_size:
        raise UserError(f"tokenizer.vocab_size={settings.vocab_size}: {settings.path} has {size}; set this number")
    special = {added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special}
    if eot not in special:
        raise UserError(
            f"{key}: its {eot} is no special token, so that a text could produce it; take another tokenizer"
        )
    if (flaw := _find_defect(tokenizer)) is not None:
        raise UserError(f"{key}: cannot serve: {flaw}; take a byte-level tokenizer without normalizer, such as GPT-2's")
    return tokenizer, eot


def check_tokenizer(settings: TokenizerConfig) -> None:
    """Check what can be known before any text is read: the tokenizers that are named, and the size of ours.

    Raises: UserError.
    """
    if settings.path is not None:
        load_external_tokenizer(settings)
    elif settings.vocab_size > MAX_VOCAB_SIZE:
        raise UserError(f"tokenizer.vocab_size={settings.vocab_size}: must be {MAX_VOCAB_SIZE} or less")
    if settings.compare is not None:
        open_tokenizer("tokenizer.compare", settings.compare)


def _find_eot(tokenizer: Tokenizer, settings: TokenizerConfig) -> str:
    assert settings.path is not None
    file = find_tokenizer_file("tokenizer.path", settings.path)
    for name in [settings.eot] if settings.eot else [read_eos_token(file), *COMMON_EOS_TOKENS]:
        if tokenizer.token_to_id(name) is not None:
            return name
    special = [added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special]
    known = f"out of {', '.join(special[:8])}" if special else "but it has no special token"
    raise UserError(f"tokenizer.eot={settings.eot}: name the token of {settings.path} that ends a text, {known}")


def _find_defect(tokenizer: Tokenizer) -> str | None:
    """Say what a tokenizer loses of a text, or return None."""
    lengths = byte_lengths(tokenizer)
    texts = list(_probe_texts())
    try:
        encoded = encode_batch(tokenizer, texts)
    except Exception as error:  # the library raises plain Exception
        return f"it cannot encode every character ({first_line(error)})"
    special = {index for index, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    for text, ids in zip(texts, encoded, strict=True):
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded != text:
            return _difference(text, decoded, 4)
        if special.intersection(ids):
            return "a text can produce its special tokens"
        if lengths[ids].sum() != len(text.encode()):
            return "its tokens do not tell how many bytes they stand for"
    if (added := _find_mismatch(tokenizer, _added_token_probes(tokenizer))) is not None:
        return f"it does not give back text that contains its added tokens: {added}"
    return None


def _find_mismatch(tokenizer: Tokenizer, texts: Iterable[str]) -> str | None:
    """Show the first text that does not come back, or return None."""
    texts = list(texts)
    for text, ids in zip(texts, encode_batch(tokenizer, texts), strict=True):
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded != text:
            return f"{json.dumps(text[:60])} comes back as {json.dumps(decoded[:60])}"
    return None


def _difference(text: str, decoded: str, n: int) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
    return f"{json.dumps(text[at : at + n])} comes back as {json.dumps(decoded[at : at + n])}"


def _added_token_probes(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield texts with each added token among words, blanks and others of its kind, and in other cases."""
    for added in tokenizer.get_added_tokens_decoder().values():
        for token in dict.fromkeys((added.content, added.content.upper(), added.content.lower(), f" {added.content} ")):
            yield f"a {token} b  {token}  c\n{token}\n\n{token}\t{token}{token}d{token}e{token}.{token}"
            yield token


def _probe_texts() -> Iterator[str]:
    """Yield texts that show what a tokenizer loses."""
    points = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 251)]
    yield from ("".join(map(chr, points[i : i + 256])) for i in range(0, len(points), 256))
    parts = [
        "",
        " ",
        "  ",
        "\n",
        "\t",
        "\r\n",
        "a",
        "É",
        "e\u0301",
        "\u212b",
        "ﬁ",
        ".",
        "'s",
        "12345",
        "\0",
        "\u200d",
        EOT,
    ]
    yield from map("".join, product(parts, repeat=3))
    yield from ("x" * 10_000, " " * 1000, "\n" * 1000, "0" * 1000)


def compare_tokenizers(ours: Tokenizer, theirs: Tokenizer, texts: list[str]) -> dict[str, Any]:
    """Measure two tokenizers on the same texts: bytes a token, and tokens a word of what white space parts."""
    n_bytes, n_words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    counts = {name: sum(map(len, encode_batch(one, texts))) for name, one in (("this", ours), ("other", theirs))}
    rates = {
        name: {"bytes_per_token": n_bytes / count, "tokens_per_word": count / max(1, n_words)}
        for name, count in counts.items()
    }
    return {"bytes": n_bytes, **rates}
