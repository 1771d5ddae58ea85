"""Load an external tokenizer after checking that it is lossless, and compare tokenizers on the same text.

Bits per byte need the bytes of each token, so a tokenizer must be byte-level (as those of GPT-2, Llama 3, Qwen and
StarCoder) and round-trip every text. The check covers every character of Unicode's first plane, some of the others, and
white space and combining characters in all positions. It detects normalizers, dropped spaces and unknown characters.
"""

import json
from collections.abc import Iterator
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
"""Common end-of-text tokens, tried if no tokenizer_config.json names one."""


def find_tokenizer_file(key: str, name: str) -> Path:
    """Find the tokenizer.json that a setting names, as a file or by its folder. Raises: UserError if there is none."""
    path = Path(name).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{key}={name}: no tokenizer.json there; give such a file, or a folder that holds one")
    return path


def open_tokenizer(key: str, name: str) -> Tokenizer:
    """Open a Hugging Face tokenizer without truncation and padding. Raises: UserError if the file is not one."""
    path = find_tokenizer_file(key, name)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{key}={name}: not a tokenizer of Hugging Face's tokenizers ({first_line(error)})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return disable_special_tokens(tokenizer)


def load_external_tokenizer(settings: TokenizerConfig) -> tuple[Tokenizer, str]:
    """Load and check the tokenizer of `tokenizer.path`. Returns it and its end-of-text token. Raises: UserError."""
    assert settings.path is not None
    key = f"tokenizer.path={settings.path}"
    tokenizer = open_tokenizer("tokenizer.path", settings.path)
    eot = _find_eot(tokenizer, settings)
    if (size := count_ids(tokenizer)) != settings.vocab_size:
        raise UserError(f"tokenizer.vocab_size={settings.vocab_size}: {settings.path} has {size}; set this number")
    special = {added.content for added in tokenizer.get_added_tokens_decoder().values() if added.special}
    if eot not in special:
        raise UserError(
            f"{key}: its {eot} is not a special token, so a text could produce it; choose another tokenizer"
        )
    if (defect := _find_defect(tokenizer)) is not None:
        raise UserError(
            f"{key}: not usable: {defect}; choose a byte-level tokenizer without normalizer, such as GPT-2's"
        )
    return tokenizer, eot


def check_tokenizer(settings: TokenizerConfig) -> None:
    """Check the tokenizer settings before any text is read. Raises: UserError."""
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
    """Return why a tokenizer is not lossless, or None."""
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
            return _show_difference(text, decoded, 4)
        if special.intersection(ids):
            return "a text can produce its special tokens"
        if lengths[ids].sum() != len(text.encode()):
            return "the bytes of its tokens do not add up to those of the text"
    texts = list(_added_token_probes(tokenizer))
    for text, ids in zip(texts, encode_batch(tokenizer, texts), strict=True):
        if (decoded := tokenizer.decode(ids, skip_special_tokens=False)) != text:
            difference = f"{json.dumps(text[:60])} is decoded as {json.dumps(decoded[:60])}"
            return f"text with its added tokens does not round-trip: {difference}"
    return None


def _show_difference(text: str, decoded: str, n: int) -> str:
    at = next((i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b), len(decoded))
    return f"{json.dumps(text[at : at + n])} is decoded as {json.dumps(decoded[at : at + n])}"


def _added_token_probes(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield texts with each added token beside words, spaces and itself, in several letter cases."""
    for added in tokenizer.get_added_tokens_decoder().values():
        for token in dict.fromkeys((added.content, added.content.upper(), added.content.lower(), f" {added.content} ")):
            yield f"a {token} b  {token}  c\n{token}\n\n{token}\t{token}{token}d{token}e{token}.{token}"
            yield token


def _probe_texts() -> Iterator[str]:
    """Yield texts that lossy tokenizers do not round-trip."""
    points = [*range(0xD800), *range(0xE000, 0x10000), *range(0x10000, 0x110000, 251)]
    yield from ("".join(map(chr, points[i : i + 256])) for i in range(0, len(points), 256))
    parts = [
        "", " ", "  ", "\n", "\t", "\r\n", "a", "É", "e\u0301", "\u212b", "ﬁ", ".", "'s", "12345", "\0", "\u200d", EOT,
    ]  # fmt: skip
    yield from map("".join, product(parts, repeat=3))
    yield from ("x" * 10_000, " " * 1000, "\n" * 1000, "0" * 1000)


def compare_tokenizers(first: Tokenizer, second: Tokenizer, texts: list[str]) -> dict[str, Any]:
    """Measure two tokenizers on the same texts: bytes per token, and tokens per word (split at white space)."""
    n_bytes, n_words = sum(len(text.encode()) for text in texts), sum(len(text.split()) for text in texts)
    counts = {name: sum(map(len, encode_batch(one, texts))) for name, one in (("this", first), ("other", second))}
    rates = {
        name: {"bytes_per_token": n_bytes / count, "tokens_per_word": count / max(1, n_words)}
        for name, count in counts.items()
    }
    return {"bytes": n_bytes, **rates}
