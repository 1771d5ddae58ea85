"""Make the tokenizer of a data set: trained on its training text, of its characters, or from a file."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from src.config.schema import TokenizerConfig
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.splits import TRAIN, VAL
from src.data.tokenizer.bpe import (
    EOT,
    build_character_tokenizer,
    count_ids,
    get_eot_id,
    save_tokenizer,
    train_tokenizer,
)
from src.data.tokenizer.external import compare_tokenizers, load_external_tokenizer, open_tokenizer
from src.runtime.log import LogFunction

TOKENIZER_SAMPLE_BYTES = 40_000_000
"""Maximum text that the tokenizer is trained on; more text hardly changes the merges."""
COMPARED_BYTES = 2_000_000
"""Maximum held-out text of each corpus for the comparison of tokenizers."""

Corpora = Mapping[str, tuple[DocumentStore, np.ndarray]]
"""The documents of each corpus, and their split assignment."""


class TokenizerRecord(TypedDict):
    """The description of the tokenizer."""

    vocab_size: int
    eot: str
    eot_id: int
    trained_on: dict[str, int] | None
    compared: dict[str, dict[str, Any]]
    files: dict[str, str]


def make_tokenizer(settings: TokenizerConfig, corpora: Corpora, out: Path, log: LogFunction) -> TokenizerRecord:
    """Build or load the tokenizer, save it in `out`, and compare it with `tokenizer.compare` if that is set."""
    started = time.monotonic()
    trained_on = None
    if settings.path is not None:
        tokenizer, eot = load_external_tokenizer(settings)
    elif settings.kind == "characters":
        kept = (text for store, split_assignment in corpora.values() for _, text in store.texts(split_assignment >= 0))
        tokenizer, eot = build_character_tokenizer(kept, settings.vocab_size), EOT
        log(f"tokenizer: {count_ids(tokenizer)} tokens, one for each character of the text")
    else:
        trained_on = _sample_bytes(corpora, settings.code_share)
        texts = (text for name, size in trained_on.items() for text in _sample(corpora[name], TRAIN, size))
        tokenizer, eot = train_tokenizer(texts, settings.vocab_size, settings.pattern), EOT
        sizes = " and ".join(f"{size / 1e6:.1f} MB of {name}" for name, size in trained_on.items())
        reached = count_ids(tokenizer)
        found = f"{reached:,}" if reached == settings.vocab_size else f"{reached:,} of {settings.vocab_size:,}"
        log(f"tokenizer: {found} tokens from {sizes} ({time.monotonic() - started:.1f} s)")
    save_tokenizer(tokenizer, eot, out)
    compared = {}
    if settings.compare is not None:
        other = open_tokenizer("tokenizer.compare", settings.compare)
        for name, corpus in corpora.items():
            compared[name] = compare_tokenizers(tokenizer, other, list(_sample(corpus, VAL, COMPARED_BYTES)))
    return {
        "vocab_size": count_ids(tokenizer),
        "eot": eot,
        "eot_id": get_eot_id(tokenizer, out / "tokenizer.json"),
        "trained_on": trained_on,
        "compared": compared,
        "files": {},
    }


def _sample(corpus: tuple[DocumentStore, np.ndarray], split: int, size: int) -> Iterator[str]:
    store, split_assignment = corpus
    return store.sample(split_assignment == split, size)


def _sample_bytes(corpora: Corpora, code_share: float) -> dict[str, int]:
    """Return the bytes of each corpus for training the tokenizer: the most that keep `code_share`."""
    total = TOKENIZER_SAMPLE_BYTES
    shares = {"language": 1 - code_share, "code": code_share}
    if len(corpora) == 1:
        shares = dict.fromkeys(corpora, 1.0)
    for name, share in shares.items():
        if share:
            store, split_assignment = corpora[name]
            chosen = split_assignment == TRAIN
            there = sum(int(sizes[chosen[first : first + len(sizes)]].sum()) for first, _, sizes in store.blocks())
            total = min(total, int(there / share))
    return {name: round(share * total) for name, share in shares.items() if share}
