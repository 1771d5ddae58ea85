"""Show prepared data: lengths of documents, kinds of characters, and documents with their tokens marked.

Documents are untrusted text, so control characters are printed as escapes.
"""

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from typing import Any, TextIO

import numpy as np
from tokenizers import Tokenizer

from src.data.dataset import PreparedData
from src.data.preparation.splits import SPLITS
from src.data.tokenizer.bpe import load_tokenizer

SAMPLE_DOCUMENTS = 300
"""Documents of a split whose characters are counted, evenly spaced."""
SHOWN_TOKENS = 300
"""Of each document."""
COLORS = ("\x1b[30;47m{}\x1b[0m", "\x1b[30;46m{}\x1b[0m")
"""Black on white and black on cyan, alternating."""
BRACKETS = ("[{}]", "[{}]")
QUANTILES = {"shortest": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "longest": 1.0}
KINDS = {"L": "letters", "N": "digits", "Z": "white space", "C": "white space", "P": "punctuation", "S": "symbols"}
"""By the first letter of the Unicode category; line ends and tabs are control characters there."""


def inspect_data(data: PreparedData, n_documents: int, out: TextIO) -> None:
    """Print statistics of each split and some of its documents with their tokens marked."""
    tokenizer = load_tokenizer(data.tokenizer_path)
    marks = COLORS if out.isatty() and not os.environ.get("NO_COLOR") else BRACKETS
    for corpus in data.corpora:
        for split in SPLITS:
            documents = _Documents(data, corpus, split)
            entry = data.manifest["corpora"][corpus]["splits"][split]
            out.write(f"\n== {corpus} {split}: {len(documents):,} documents, {entry['tokens']:,} tokens\n")
            if not len(documents):  # with data.test_fraction=0
                continue
            sample = [tokenizer.decode(documents[i].tolist()) for i in _evenly_spaced(len(documents), SAMPLE_DOCUMENTS)]
            for title, line in _compute_statistics(documents.lengths(), sample, entry):
                out.write(f"   {title:<10} {line}\n")
            shown = _evenly_spaced(len(documents), n_documents)
            for number, origin in zip(shown, documents.origins(shown), strict=True):
                out.write(f"\n-- {corpus} {split} document {number}: {_format_origin(origin)}\n")
                tokens = documents[number]
                out.write("".join(_mark_tokens(tokenizer, tokens[:SHOWN_TOKENS].tolist(), marks)))
                out.write(
                    f"\n   ... {len(tokens) - SHOWN_TOKENS:,} tokens more\n" if len(tokens) > SHOWN_TOKENS else "\n"
                )


class _Documents:
    """The documents of a split as tokens, without end-of-text tokens."""

    def __init__(self, data: PreparedData, corpus: str, split: str) -> None:
        self._tokens, self._starts = data.tokens(corpus, split), data.offsets(corpus, split)
        self._table = np.load(data.folder / f"{corpus}_{split}.documents.npy", mmap_mode="r")
        self._origins_path = data.folder / f"{corpus}.origins.jsonl"

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> np.ndarray:
        end = self._starts[number + 1] if number + 1 < len(self) else len(self._tokens) - 1
        return self._tokens[int(self._starts[number]) + 1 : int(end)]

    def lengths(self) -> np.ndarray:
        """Return the number of tokens of each document: (n_documents,) int64."""
        return np.diff(self._starts, append=np.uint64(len(self._tokens) - 1)).astype(np.int64) - 1

    def origins(self, numbers: list[int]) -> list[dict[str, Any]]:
        """Read the origins of some documents."""
        lines = [int(self._table["origin"][number]) for number in numbers]
        wanted = set(lines)
        with self._origins_path.open(encoding="utf-8") as handle:
            found = {line: json.loads(text) for line, text in enumerate(handle) if line in wanted}
        return [found[line] for line in lines]


def _evenly_spaced(n: int, wanted: int) -> list[int]:
    """Return up to `wanted` numbers below n, evenly spaced."""
    wanted = min(n, wanted)
    return [i * n // wanted for i in range(wanted)]


def _format_origin(origin: dict[str, Any]) -> str:
    return escape_text(", ".join(str(origin[key]) for key in ("group", "path", "licence", "revision") if key in origin))


def _compute_statistics(lengths: np.ndarray, sample: list[str], entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the statistics of a split as (title, line)."""
    values = np.quantile(lengths, list(QUANTILES.values()), method="nearest").tolist()
    yield "tokens", ", ".join(f"{name} {value:,}" for name, value in zip(QUANTILES, values, strict=True))
    words = entry["tokens_per_word"]
    per_word = "" if words is None else f", {words:.3f} tokens per word"
    yield "rates", f"{entry['bytes_per_token']:.3f} bytes per token{per_word}"
    characters = Counter("".join(sample))
    total = sum(characters.values())
    kinds: Counter[str] = Counter()
    for char, count in characters.items():
        kinds[KINDS.get(unicodedata.category(char)[0], "others")] += count
    beyond = sum(count for char, count in characters.items() if not char.isascii())
    yield (
        "characters",
        ", ".join(f"{kind} {n / total:.1%}" for kind, n in kinds.most_common())
        + f"; beyond ASCII {beyond / total:.2%}",
    )
    lines = np.array([len(line) for text in sample for line in text.split("\n")])
    yield (
        "lines",
        f"{len(lines) / len(sample):.1f} a document, mean {lines.mean():.1f} characters, longest {lines.max():,}",
    )


def _mark_tokens(tokenizer: Tokenizer, ids: list[int], marks: tuple[str, str]) -> Iterator[str]:
    """Yield the text of each token, marked; tokens that share a character are shown as one."""
    held: list[int] = []
    number = 0
    for index in ids:
        held.append(index)
        text = tokenizer.decode(held, skip_special_tokens=False)
        if text.endswith("\ufffd") and len(held) < 4:  # a character of UTF-8 has at most four bytes
            continue
        yield marks[number % 2].format(escape_text(text)) + "\n" * text.count("\n")
        held, number = [], number + 1
    if held:
        yield marks[number % 2].format(escape_text(tokenizer.decode(held, skip_special_tokens=False)))


def escape_text(text: str) -> str:
    """Replace control characters, and those that reorder or hide text, by escapes."""
    return "".join(
        char if char == " " or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
