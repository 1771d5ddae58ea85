"""Inspection shows the text of prepared data, with control characters escaped."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from src.config.schema import DataConfig, TokenizerConfig
from src.data.preparation.inspection import _mark_tokens, escape_text, inspect_data
from src.data.preparation.prepare import prepare_data
from src.data.tokenizer.bpe import encode, train_tokenizer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def inspect(data: DataConfig, tokenizer: TokenizerConfig, root: Path, out: io.StringIO, documents: int = 1) -> str:
    inspect_data(prepare_data(data, tokenizer, root, log=lambda _: None), documents, out)
    return out.getvalue()


def test_inspection_shows_statistics_and_documents(
    local_data: DataConfig,
    small_vocabulary: TokenizerConfig,
    corpus_files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with corpus_files[1].open("a") as handle:
        for i in range(12):  # one document of each package, so that each split has one
            row = {"text": f"\x1b[31mred {i}\x07 \u202e", "source": f"package-{i}"}
            handle.write(json.dumps(row) + "\n")
    monkeypatch.delenv("NO_COLOR", raising=False)
    data = replace(local_data, code=replace(local_data.code, near_duplicates="off"))
    text = inspect(data, small_vocabulary, tmp_path / "outputs", io.StringIO(), documents=1000)
    assert "\x1b" not in text and "\x07" not in text and "\u202e" not in text
    bare = re.sub(r"(?<!\\)[\[\]]", "", text)
    assert "\\x1b31mred 3\\x07 \\u202e" in bare
    for title in ("== language train: ", "== code test: ", "median", "letters", "a document, mean", "bytes per token"):
        assert title in text
    assert text.count("\n-- code") == 212 and "package-3, bin/3, MIT" in text
    colored = inspect(data, small_vocabulary, tmp_path / "outputs", Terminal())
    assert "\x1b[30;46m" in colored and "\x1b[31m" not in colored
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in inspect(data, small_vocabulary, tmp_path / "outputs", Terminal())


def test_tokens_are_marked_without_splitting_characters() -> None:
    tokenizer = train_tokenizer(["a b\n" * 20], 258)
    text = "a 日b\n\n🐢"
    pieces = list(_mark_tokens(tokenizer, encode(tokenizer, text), ("<{}>", "<{}>")))
    assert "".join(pieces) == "<a>< ><日><b><\\n>\n<\\n>\n<🐢>"
    assert "".join(_mark_tokens(tokenizer, encode(tokenizer, "日")[:2], ("<{}>", "<{}>"))) == "<\ufffd>"


def test_control_characters_are_escaped() -> None:
    assert escape_text("a b\té\r\x9b\u200f") == "a b\\té\\r\\x9b\\u200f"
