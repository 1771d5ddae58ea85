"""Which files are read as which documents, and how unreadable ones are reported."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from src.config.schema import CorpusConfig, UserError
from src.data.document import Document
from src.data.sources import huggingface, record_files, registry, text_files
from src.data.sources.local import list_local_files
from src.data.sources.registry import read_documents


def read(name: str, *paths: object, **settings: object) -> tuple[list[Document], Counter[str]]:
    extensions = [".txt", ".md"] if name == "language" else [".sh", ".bash"]
    corpus = CorpusConfig(source="local", paths=[str(path) for path in paths], extensions=extensions)
    for key, value in settings.items():
        setattr(corpus, key, value)
    dropped: Counter[str] = Counter()
    return list(read_documents(corpus, name, 0, dropped, Path("cache"))), dropped


def texts(name: str, *paths: object, **settings: object) -> list[str]:
    return [document.text for document in read(name, *paths, **settings)[0]]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_txt_is_split_at_every_separator(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\ntwo\n<|endoftext|>\r\nthree <|endoftext|> four\n<|endoftext|>\n")
    assert texts("language", file) == ["one\ntwo\n", "three", "four\n"]


def test_txt_without_separator_is_one_document(tmp_path: Path) -> None:
    assert texts("language", write(tmp_path / "a.txt", "one\n\ntwo")) == ["one\n\ntwo"]


def test_jsonl_keys(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "source": "repo", "path": "x/y", "licence": "MIT"},
        {"text": "b", "license": "GPL-3"},
        {"text": "c", "source": None},
    ]
    file = write(tmp_path / "a.jsonl", "\n\n".join(map(json.dumps, rows)))
    assert read("code", file)[0] == [
        Document("a", "repo", "x/y", "MIT"),
        Document("b", None, str(file), "GPL-3"),
        Document("c", None, str(file), "unknown"),
    ]


def test_only_files_of_the_corpus_are_read_from_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "b.sh", "echo b")
    write(tmp_path / "sub" / "a.BASH", "echo a")
    write(tmp_path / "tool", "#!/usr/bin/env -S bash -e\necho tool")
    write(tmp_path / "python", "#!/usr/bin/env python3\n")
    write(tmp_path / "fish", "#!/usr/bin/fish\n")
    write(tmp_path / "notes.txt", "notes")
    write(tmp_path / ".git" / "hook.sh", "echo hidden")
    write(tmp_path / "z.jsonl", '{"text": "echo z"}')
    os.mkfifo(tmp_path / "pipe")
    assert texts("code", tmp_path) == ["echo b", "#!/usr/bin/env -S bash -e\necho tool", "echo z", "echo a"]
    assert texts("code", tmp_path, extensions=["sh"])[0] == "echo b", "the dot is optional"
    assert texts("language", tmp_path) == ["notes", "echo z"]


def test_named_files_and_globs_are_read_with_any_extension(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.py", "a"), write(tmp_path / "deep" / "er" / "b.cfg", "b")
    assert texts("code", a, b) == ["a", "b"]
    assert texts("code", tmp_path / "**") == ["a", "b"]
    assert texts("code", tmp_path / "*.py") == ["a"]
    assert texts("code", tmp_path / "*.py", tmp_path / "a*") == ["a"], "each file once"


def test_tilde_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "mine.sh", "true")
    assert texts("code", "~/mine.sh") == texts("code", "~/*.sh") == ["true"]


def test_symbolic_link_loop_ends(tmp_path: Path) -> None:
    write(tmp_path / "sub" / "a.sh", "a")
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    (tmp_path / "again.sh").symlink_to(tmp_path / "sub" / "a.sh")
    (tmp_path / "broken.sh").symlink_to(tmp_path / "nowhere")
    assert texts("code", tmp_path) == ["a"]


def test_unreadable_texts_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.sh", b"\x7fELF\0\0")
    write(tmp_path / "b.sh", "naïve".encode("latin-1"))
    write(tmp_path / "c.sh", b"\xef\xbb\xbfecho c")
    write(tmp_path / "d.jsonl", r'{"text": "half \ud800"}' + "\n" + r'{"text": "zero \u0000"}')
    documents, dropped = read("code", tmp_path)
    assert [document.text for document in documents] == ["echo c"]
    assert dropped == {"binary": 2, "not UTF-8": 2}


def test_too_large_documents_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 20)
    monkeypatch.setattr(record_files, "MAX_RECORD_BYTES", 40)
    write(
        tmp_path / "a.txt",
        "one\n<|endoftext|>\n" + "two\n" * 6 + "<|endoftext|>\n" + "3" * 100 + "\n<|endoftext|>\nfour",
    )
    write(tmp_path / "b.md", "x" * 21)
    write(tmp_path / "c.md", "x" * 20)
    documents, dropped = read("language", tmp_path)
    assert [document.text for document in documents] == ["one\n", "four", "x" * 20]
    assert dropped == {"larger than 2e-05 MB": 3}
    with pytest.raises(UserError, match=r"a\.jsonl\] line 2: longer than"):
        texts("code", write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "' + "a" * 40 + '"}'))


def test_max_bytes_limits_the_corpus(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "\n<|endoftext|>\n".join(["éé"] * 5))
    assert len(texts("language", file, max_bytes=14)) == 2
    assert len(texts("language", file)) == 5


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "half', "not JSON"),
        ('["text"]', "no text"),
        ('{"content": "x"}', "no text"),
        ('{"text": 3}', "no text"),
        ("[" * 100_000, "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
    ],
)
def test_malformed_jsonl_names_the_line(tmp_path: Path, line: str | bytes, reason: str) -> None:
    line = line.encode() if isinstance(line, str) else line
    file = write(tmp_path / "a.jsonl", b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(UserError, match=reason) as error:
        texts("code", file)
    assert f"data.code.paths=[{file}] line 3" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["missing.txt", "missing/*.txt", "", "x" * 5000])
def test_a_missing_path_is_an_error(tmp_path: Path, name: str) -> None:
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(
        UserError, match=r"^data\.language\.paths=\[.*\]: .*(does not exist|finds nothing).*leave it out"
    ):
        texts("language", path)


def test_hub_files_are_read_and_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases of TinyStories: blank lines before a story, half a story at the beginning of a file, empty stories."""
    separator = "\n<|endoftext|>\n"
    stories = [
        "u don't have to be scared.",
        "\n\nOne day “Tim” ran.",
        "",
        "She saw donâ€™t.",
        "He lost â€ it.",
        "The dog and",
    ]
    files = {
        "train.txt": write(tmp_path / "train.txt", separator.join(stories)),
        "valid.jsonl": write(tmp_path / "valid.jsonl", '{"text": "Nice story.", "path": "elsewhere"}\n'),
    }
    monkeypatch.setattr(huggingface, "fetch_files", lambda *_: files)
    corpus = CorpusConfig(source="hub", repo="somebody/stories", licence="CDLA-Sharing-1.0")
    dropped: Counter[str] = Counter()
    documents = list(read_documents(corpus, "language", 0, dropped, Path("cache")))
    assert [document.text for document in documents] == [
        "\n\nOne day “Tim” ran.\n",
        "\n",
        "She saw don’t.\n",
        "Nice story.",
    ]
    assert [document.path for document in documents[-2:]] == [
        "somebody/stories/train.txt",
        "somebody/stories/valid.jsonl",
    ]
    assert {document.license for document in documents} == {"CDLA-Sharing-1.0"}
    assert dropped == {"cut off": 2, "mojibake (repaired and kept)": 1, "mojibake": 1}
    code = [document.text for document in read_documents(corpus, "code", 0, Counter(), Path("cache"))]
    assert len(code) == 6 and code[0] == "u don't have to be scared.", "code is not checked for cut-off stories"
    corpus.max_bytes = 30
    assert len(list(read_documents(corpus, "language", 0, Counter(), Path("cache")))) == 2


def test_missing_paths_show_an_example() -> None:
    with pytest.raises(UserError, match=r"data\.code\.paths is empty.*data\.code\.paths=\["):
        list_local_files(CorpusConfig(source="local"), "code", Counter())


def test_an_unknown_source_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"data\.code\.source=web: .*stories, scripts, local"):
        read_documents(CorpusConfig(source="web"), "code", 0, Counter(), Path("cache"))


def test_max_bytes_out_of_range_is_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.code\.max_bytes=0"):
        read_documents(CorpusConfig(source="local", max_bytes=0), "code", 0, Counter(), Path("cache"))


@pytest.mark.parametrize("source", registry.GENERATED)
def test_generated_documents_have_their_bits(source: str) -> None:
    corpus = CorpusConfig(source=source, max_bytes=5000)
    documents = list(read_documents(corpus, "language", 3, Counter(), Path("cache")))
    assert all(document.bits is not None and document.bits > 0 for document in documents)
    assert sum(len(document.text.encode()) for document in documents) >= 5000
    with pytest.raises(UserError, match="max_bytes=null"):
        list(read_documents(CorpusConfig(source=source), "language", 3, Counter(), Path("cache")))
