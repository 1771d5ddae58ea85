"""Files of all formats are read, rejected or skipped; everything that is left out is reported."""

import bz2
import codecs
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from src.config.schema import CorpusConfig, UserError
from src.data.document import Document, ReadTally
from src.data.preparation.left_out import drop_warnings
from src.data.sources import compression, record_files, text_files
from src.data.sources.compression import DamagedFile, read_chunks
from src.data.sources.registry import read_documents

PACKERS: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def read(name: str, *paths: object, **settings: object) -> tuple[list[Document], ReadTally]:
    extensions = [".txt", ".md"] if name == "language" else [".sh"]
    corpus = CorpusConfig(source="local", paths=[str(path) for path in paths], extensions=extensions)
    for key, value in settings.items():
        setattr(corpus, key, value)
    dropped = ReadTally()
    return list(read_documents(corpus, name, 0, dropped, Path("cache"))), dropped


def texts(name: str, *paths: object, **settings: object) -> list[str]:
    return [document.text for document in read(name, *paths, **settings)[0]]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("separator", "text", "expected"),
    [
        (None, "One.<|endoftext|>Two.", ["One.", "Two."]),
        (None, "One. <|endoftext|>\t Two.\n<|endoftext|>", ["One.", "Two.\n"]),
        (None, "<|endoftext|>\n One.\n  <|endoftext|>  \r\n\n Two.", ["", " One.\n", "\n Two."]),
        ("</s>", "One.</s>Two.\n</s>\nThree.</s>", ["One.", "Two.\n", "Three."]),
        ("[EOS]", "One.<|endoftext|>[EOS]Two.", ["One.<|endoftext|>", "Two."]),
        (
            "---",
            "One --- and a half.\n---\nTwo.\n --- \r\n----\nThree.",
            ["One --- and a half.\n", "Two.\n", "----\nThree."],
        ),
        ("***", "One.\n***", ["One.\n"]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 3, 1 << 20])
def test_an_inline_separator_splits_anywhere(
    separator: str | None, text: str, expected: list[str], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "CHUNK", chunk)
    assert texts("language", write(tmp_path / "a.txt", text), separator=separator) == expected


def test_frequent_unknown_separators_are_reported(tmp_path: Path) -> None:
    for mark in ("</s>", "<|end|>", "<EOS>", "[EOS]", "===", "---", "* * *", "%", "<|end of text|>"):
        file = write(tmp_path / "a.txt", f"\n{mark}\n".join(f"Story {i}." for i in range(9)))
        (note,) = read("language", file)[1].notes
        assert note.startswith(f"{mark} occurs 8 times in the text (first in {file})")
        assert f"data.language.separator='{mark}' separates documents there" in note
        assert len(texts("language", file, separator=mark)) == 9
    assert read("language", write(tmp_path / "b.txt", "A </s> B"))[1].notes == []
    assert read("code", write(tmp_path / "b.sh", "usage: x <file>\n" * 9))[1].notes == [], "common in code"


def test_a_separator_within_records_is_reported(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", json.dumps({"text": "<|endoftext|>".join("abcdefgh")}) + "\n")
    assert texts("language", file) == ["<|endoftext|>".join("abcdefgh")]
    assert "<|endoftext|> occurs 7 times" in read("language", file)[1].notes[0]
    assert texts("language", file, separator="<|endoftext|>") == list("abcdefgh")


def test_documents_have_line_numbers(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "\none\n<|endoftext|>\n\n\ntwo<|endoftext|>three\n<|endoftext|>\nfour\n")
    assert [document.place for document in read("language", file)[0]] == [2, 6, 6, 8]
    assert read("language", write(tmp_path / "b.txt", "one\n"))[0][0].name == str(tmp_path / "b.txt")
    records = write(tmp_path / "c.jsonl", '\n{"text": "a"}\n\n{"text": "b", "path": "x"}\n')
    assert [document.name for document in read("language", records)[0]] == [f"{records}:2", f"{records}:4 (x)"]


JSON = [
    ('[{"text": "a"}, {"text": "b"}]', "text"),
    ('[\n {"story": "a", "source": "GPT-4", "summary": "s"},\n {"story": "b"}\n]', "story"),
    ('[{"content": "a", "id": "1"}, {"content": "b", "id": "2"}]', "content"),
    ('{"text": "a"}\n{"text": "b"}\n', "text"),
    ('{"version": 1, "data": [{"text": "a"}, {"text": "b"}]}', "text"),
    ('{"train": [{"story": "a"}], "test": [{"story": "b"}]}', "story"),
]


@pytest.mark.parametrize(("content", "field"), JSON)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
def test_json_is_read_as_records(
    content: str, field: str, chunk: int, bom: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "CHUNK", chunk)
    write(tmp_path / "a.json", bom + content.encode())
    for place in (tmp_path, tmp_path / "a.json", tmp_path / "*.json"):
        documents, dropped = read("language", place)
        assert [document.text for document in documents] == ["a", "b"]
        assert dropped.notes == [] if field == "text" else f'in its field "{field}"' in dropped.notes[0]


def test_named_json_may_use_any_text_field(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", '[{"tale": "a", "title": "x"}]')
    assert texts("language", file) == ["a"]
    assert texts("language", write(tmp_path / "b.json", '["a", "b"]')) == ["a", "b"]
    two = write(tmp_path / "c.json", '[{"tale": "a", "moral": "b"}]')
    with pytest.raises(UserError, match=r'c\.json\]: its text is ambiguous, .*"tale", "moral".*text_field=NAME$'):
        read("language", two)
    assert texts("language", two, text_field="moral") == ["b"]
    with pytest.raises(UserError, match='no text under "x"'):
        read("language", two, text_field="x")


@pytest.mark.parametrize("content", ['[{"text": "a"}]', '[\n {"text": "a"}\n]'])
def test_a_json_list_named_jsonl_is_an_error(content: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl\] line 1: .*a list of records has to be named \.json; correct it"):
        read("language", write(tmp_path / "a.jsonl", content))


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "x", "version": "1.0"}',
        '{"story": {"a": 1}}',
        "[1, 2]",
        "[[1]]",
        "{",
        "",
        "3",
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        b"\xff",
        '[{"name": "one"}]',
    ],
)
def test_json_without_records_is_not_read(content: str | bytes, tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", content)
    write(tmp_path / "b.txt", "A story.")
    documents, dropped = read("language", tmp_path)
    assert [document.text for document in documents] == ["A story."]
    assert dropped.passed_over == {".json file without records of text": 1}
    assert dropped.passed_over.n_bytes[".json file without records of text"] == file.stat().st_size
    if content != '[{"name": "one"}]' and content != '{"name": "x", "version": "1.0"}':
        with pytest.raises(UserError, match=rf"data\.language\.paths=\[{file}\]: ") as error:
            read("language", file)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"text": "a"}, {"text": 3}]', "record 2: no text"),
        ('[{"text": "a"}, {"story": "b"}]', "record 2: no text under text"),
        ('[{"text": "a"}, 3]', "record 2: no list"),
        ('[{"text": "a"}, {"text": "b"', "record 2: not JSON"),
        ('[{"text": "a"} {"text": "b"}]', "record 2: not JSON .*comma"),
        ('[{"text": "a"}] x', "record 2: not JSON"),
    ],
)
def test_a_damaged_list_reports_the_record(content: str, reason: str, tmp_path: Path) -> None:
    write(tmp_path / "a.json", content)
    with pytest.raises(UserError, match=rf"a\.json\] {reason}"):
        read("language", tmp_path)


def test_a_too_long_record_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record_files, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(compression, "CHUNK", 100)
    with pytest.raises(UserError, match="longer than"):
        read("language", write(tmp_path / "a.json", '[{"text": "a"}, {"text": "' + "b" * 10_000 + '"}]'))


@pytest.mark.parametrize("ending", [*PACKERS, ".zst"])
def test_compressed_files_are_read(ending: str, tmp_path: Path) -> None:
    pack = PACKERS.get(ending) or pytest.importorskip("zstandard").compress
    write(tmp_path / f"a.txt{ending}", pack(b"One.<|endoftext|>Two."))
    write(tmp_path / f"b.jsonl{ending}", pack(b'{"text": "Three."}\n') + pack(b'{"text": "Four."}\n'))
    write(tmp_path / f"c.json{ending}", pack(b'["Five."]'))
    write(tmp_path / f"d.txt{ending}", pack("Six.".encode("utf-16")))
    write(tmp_path / f"e.md{ending}", b"" if ending != ".bz2" else pack(b""))
    found = texts("language", *sorted(tmp_path.iterdir()))
    assert found == ["One.", "Two.", "Three.", "Four.", "Five.", "Six.", ""]
    assert texts("language", tmp_path) == [text for text in found if text != "Five."], "lists are read only if named"
    write(tmp_path / "code" / f"tool{ending}", pack(b"#!/bin/sh\necho 1\n"))
    assert texts("code", tmp_path / "code") == ["#!/bin/sh\necho 1"]


@pytest.mark.parametrize("ending", [*PACKERS, ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "short"])
def test_damaged_compressed_files_are_counted_or_an_error(ending: str, damage: str, tmp_path: Path) -> None:
    pack = PACKERS.get(ending) or pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress
    whole = pack(b"".join(b"line %d\n" % (i * i) for i in range(5000)))
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    content = {"cut": whole[:-5], "flipped": flipped, "other": b"plain text", "short": whole[:5]}[damage]
    file = write(tmp_path / f"a.txt{ending}", content)
    write(tmp_path / "b.txt", "A story.")
    documents, dropped = read("language", tmp_path)
    assert [document.text for document in documents] == ["A story."]
    assert (
        dropped.total() == 1
        and f"damaged {ending} (" in next(iter(dropped))
        and dropped.unexpected_bytes == len(content)
    )
    with pytest.raises(UserError, match=rf"paths=\[{file}\]: damaged \{ending} .*leave it out, replace it$"):
        read("language", file)


@pytest.mark.parametrize("ending", [*PACKERS, ".zst"])
def test_decompression_is_bounded(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "RATIO_FREE_BYTES", 5_000_000)
    pack = PACKERS.get(ending) or pytest.importorskip("zstandard").compress
    file = write(tmp_path / f"a.txt{ending}", pack(b"\0" * 50_000_000))
    sizes: list[int] = []
    with pytest.raises(DamagedFile, match="grows beyond 200 times its size"):
        sizes.extend(map(len, read_chunks(file)))
    assert sum(sizes) <= max(5_000_000, 200 * file.stat().st_size) + compression.CHUNK


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "find_spec", lambda name: None)
    write(tmp_path / "a.txt", "A story.")
    for name, library in (("b.jsonl.zst", "zstandard"), ("c.parquet", "pyarrow"), ("d.arrow", "pyarrow")):
        file = write(tmp_path / name, b"x" * 100)
        with pytest.raises(UserError, match=rf'{name} is not read: it needs {library}, .*install -e "\.\[formats\]"'):
            read("language", file)
    documents, dropped = read("language", tmp_path)
    assert len(documents) == 1 and dropped.passed_over.total() == 3 and dropped.passed_over.unexpected_bytes == 300
    assert any(
        "warning: language: 300 bytes of 308 bytes are left out (97%)" in line
        for line in drop_warnings("language", dropped, 8)
    )


@pytest.mark.parametrize("ending", [".parquet", ".arrow", ".feather", ".stream.arrow"])
def test_parquet_and_arrow_columns_are_read(ending: str, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    columns = {"story": ["One.", None, "Three."], "n": [1, 2, 3], "license": ["mit", "mit", None]}
    table = pa.table(columns | {"source": ["x", "y", "z"]})
    file = tmp_path / f"a{ending}"
    if ending == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, file)
    else:
        make = pa.ipc.new_stream if "stream" in ending else pa.ipc.new_file
        with make(str(file), table.schema) as writer:
            writer.write_table(table)
    for place in (file, tmp_path):
        documents, dropped = read("language", place)
        assert [document.text for document in documents] == ["One.", "Three."]
        assert [(document.group, document.license, document.place) for document in documents] == [
            ("x", "MIT", 1),
            ("z", "unknown", 3),
        ]
        assert dropped == {"record without text": 1} and 'field "story"' in dropped.notes[0]
    whole = file.read_bytes()
    for content in (b"", whole[:20], whole[:-9], b"PAR1xxxxPAR1", b"x" * 50):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"damaged \."):
            read("language", file)


def test_parquet_without_text_lists_its_columns(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    file = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"a": ["x"], "b": ["y"]}), file)
    with pytest.raises(UserError, match=r'its text is ambiguous, its fields are "a", "b"; .*text_field=NAME'):
        read("language", file)
    assert texts("language", file, text_field="b") == ["y"]


def test_repeated_dictionary_texts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pa = pytest.importorskip("pyarrow")
    monkeypatch.setattr(compression, "RATIO_FREE_BYTES", 1_000_000)
    file = tmp_path / "a.parquet"
    pytest.importorskip("pyarrow.parquet").write_table(pa.table({"text": ["ab" * 5000] * 1000}), file)
    with pytest.raises(UserError, match=r"grows beyond 200 times"):
        read("language", file)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_a_byte_order_mark_sets_the_encoding(
    encoding: str, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compression, "CHUNK", chunk)
    stories = "Öne 😀.\n<|endoftext|>\nTwo."
    write(tmp_path / "a.txt", ("\ufeff" + stories).encode(encoding))
    write(tmp_path / "b.jsonl", ("\ufeff" + json.dumps({"text": "Three."}) + "\r\n").encode(encoding))
    assert texts("language", tmp_path) == ["Öne 😀.\n", "Two.", "Three."]


def test_broken_utf16_is_counted(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", codecs.BOM_UTF16_LE + "A story.".encode("utf-16-le") + b"\x00")
    write(tmp_path / "b.txt", "A story.".encode("utf-16-le"))
    write(tmp_path / "c.txt", "Naïve.".encode("latin-1"))
    write(tmp_path / "d.txt", "A whole story." * 10)
    documents, dropped = read("language", tmp_path)
    assert len(documents) == 1
    assert dropped == {"not UTF-16, as its byte order mark says": 1, "binary": 1, "not UTF-8": 1}
    assert dropped.first["binary"] == [str(tmp_path / "b.txt")] and dropped.n_bytes["binary"] == 16
    (warning,) = [line for line in drop_warnings("language", dropped, 140) if line.startswith("warning")]
    assert f"{file.stat().st_size + 16 + 6} bytes of" in warning


@pytest.mark.parametrize(
    "name",
    [
        "a.csv",
        "a.tsv",
        "a.xml",
        "a.html",
        "a.yaml",
        "a.ipynb",
        "a.pdf",
        "a.zip",
        "a.tar.gz",
        "a.csv.gz",
        "a.parquet.gz",
    ],
)
def test_other_formats_are_an_error_by_name_and_skipped_in_a_folder(name: str, tmp_path: Path) -> None:
    file = write(tmp_path / name, "some,text\n")
    with pytest.raises(UserError, match=rf"data\.language\.paths=\[{file}\]: {file} is not read: .*; or leave it out"):
        read("language", file)
    with pytest.raises(UserError, match=r"is not read: "):
        read("language", f"{tmp_path}/a.*")
    write(tmp_path / "b.txt", "A story.")
    documents, dropped = read("language", tmp_path)
    assert [document.text for document in documents] == ["A story."]
    assert dropped.passed_over.total() == 1 and dropped.passed_over.unexpected_bytes == 10
    assert str(file) in drop_warnings("language", dropped, 8)[0]


def test_skipped_files_are_listed_with_sizes(tmp_path: Path) -> None:
    write(tmp_path / "README.md", "# A data set\n")
    write(tmp_path / "LICENSE.txt", "MIT")
    write(tmp_path / "license", "MIT")
    write(tmp_path / "story.md", "A story.")
    write(tmp_path / "photo.jpg", b"\xff" * 10)
    write(tmp_path / ".cache" / "x.txt", "x" * 7)
    write(tmp_path / ".gitignore", "out/\nold.txt\n")
    write(tmp_path / "out" / "y.txt", "y" * 5)
    write(tmp_path / "old.txt", "z" * 3)
    documents, dropped = read("language", tmp_path)
    assert [document.text for document in documents] == ["A story."]
    passed = dropped.passed_over
    assert passed == {
        "file about the others": 3,
        ".jpg file": 1,
        "hidden folder": 1,
        "ignored folder": 1,
        "ignored file": 1,
        "file without an ending": 1,
    }
    assert (passed.n_bytes["hidden folder"], passed.n_bytes["ignored folder"], passed.n_bytes["ignored file"]) == (
        7,
        5,
        3,
    )
    assert passed.unexpected_bytes == 10
    assert texts("language", tmp_path / "README.md") == ["# A data set\n"], "named files are read"


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    write(tmp_path / "\x1b[31mred\x07.txt", b"\0")
    write(tmp_path / "b.txt", "A story.")
    dropped = read("language", tmp_path)[1]
    assert (
        "\x1b" in dropped.first["binary"][0] and "\x1b" not in dropped.describe() and "\x07" not in dropped.describe()
    )


def test_max_bytes_below_the_first_document_is_an_error(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "x" * 50)
    with pytest.raises(UserError, match=rf"data\.language\.max_bytes=49: the first document has 50 bytes \({file}\)"):
        read("language", file, max_bytes=49)


def test_too_large_parts_are_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_files, "MAX_DOCUMENT_BYTES", 100)
    chunks = [b"one<|endof", b"text|>", *[b"x\n" * 50] * 1000, b"<|endo", b"ftext|>three"]
    parts = list(text_files.split_documents(chunks, "<|endoftext|>"))
    assert [(part.n_bytes, part.line) for part in parts] == [(3, 1), (100_000, 1), (5, 50_001)]
    assert max(len(part.data) for part in parts) < 400
