"""The prepared folder: reproducible, complete or absent, with correct figures in its manifest."""

import hashlib
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.config.schema import CorpusConfig, DataConfig, HygieneConfig, TokenizerConfig, UserError
from src.data import dataset as prepared_module
from src.data.dataset import CORPORA, FORMAT_VERSION, VERIFIED
from src.data.document import Document
from src.data.preparation import packing, pipeline
from src.data.preparation import prepare as prepare_module
from src.data.preparation.inspection import inspect_data
from src.data.preparation.prepare import PreparedData, find_prepared, load_prepared, prepare_data
from src.data.preparation.splits import SPLITS
from src.data.sources import registry
from src.data.tokenizer.bpe import EOT, EOT_ID, encode, load_tokenizer

Prepare = Callable[..., PreparedData]


@pytest.fixture
def prepare(local_data: DataConfig, small_vocabulary: TokenizerConfig, tmp_path: Path) -> Prepare:
    def run(root: str = "outputs", data: DataConfig = local_data, rerun: bool = False) -> PreparedData:
        return prepare_data(data, small_vocabulary, tmp_path / root, rerun=rerun, log=lambda _: None)

    return run


def documents_of(prepared: PreparedData, corpus: str, split: str) -> list[str]:
    tokenizer = load_tokenizer(prepared.tokenizer_path)
    tokens = prepared.tokens(corpus, split)
    ends = np.flatnonzero(tokens == EOT_ID)
    assert ends[0] == 0
    assert ends[-1] == len(tokens) - 1
    assert prepared.offsets(corpus, split).tolist() == ends[:-1].tolist()
    return [tokenizer.decode(tokens[a + 1 : b].tolist()) for a, b in pairwise(ends)]


def contents(folder: Path) -> dict[str, bytes]:
    """Read all prepared files, except the record of their verification."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != VERIFIED}


def test_every_document_is_in_one_split(prepare: Prepare, corpus_files: tuple[Path, Path]) -> None:
    prepared = prepare()
    stories, scripts = corpus_files
    found = [text for split in SPLITS for text in documents_of(prepared, "language", split)]
    assert sorted(found) == sorted(stories.read_text().split("\n<|endoftext|>\n"))
    rows = [json.loads(line) for line in scripts.read_text().splitlines()]
    source = {row["text"].strip("\n"): row["source"] for row in rows}
    groups = {split: {source[text] for text in documents_of(prepared, "code", split)} for split in SPLITS}
    assert not groups["train"] & (groups["val"] | groups["test"])
    assert not groups["val"] & groups["test"]
    group_records = prepared.manifest["corpora"]["code"]["groups"]
    for split in SPLITS:
        assert {name for name, entry in group_records.items() if entry["split"] == split} == groups[split]
    assert sum(entry["documents"] for entry in group_records.values()) == 200
    assert prepared.manifest["corpora"]["language"]["groups"] == {}


def test_character_vocabulary_covers_all_characters(
    local_data: DataConfig, corpus_files: tuple[Path, Path], tmp_path: Path
) -> None:
    """The vocabulary includes held-out text, and `vocab_size` is not part of the folder's name."""
    settings = TokenizerConfig("characters", 256, kind="characters")
    prepared = prepare_data(local_data, settings, tmp_path / "outputs", log=lambda _: None)
    texts = [text for corpus in CORPORA for split in SPLITS for text in documents_of(prepared, corpus, split)]
    assert prepared.vocab_size == 1 + len(set("".join(texts))) < 64
    assert set("".join(texts)) > set("#/"), "both corpora"
    for corpus in CORPORA:
        splits = prepared.manifest["corpora"][corpus]["splits"]
        assert all(splits[split]["bytes"] == len("".join(documents_of(prepared, corpus, split))) for split in SPLITS)
    assert "one for each character of the text" in (prepared.folder / "DATA_CARD.md").read_text()
    found = find_prepared(local_data, replace(settings, vocab_size=300), tmp_path / "outputs")
    assert found is not None and found.folder == prepared.folder


def test_a_single_text_is_split_by_position(local_data: DataConfig, tmp_path: Path) -> None:
    """The parts are consecutive and together the whole text; with test_fraction=0 there is no test text."""
    text = "\n".join(f"{number} green bottles" for number in range(1000))
    (tmp_path / "song.txt").write_text(text)
    language = replace(local_data.language, paths=[str(tmp_path / "song.txt")])
    settings = replace(local_data, language=language, split="position", val_fraction=0.1, test_fraction=0.0)
    characters = TokenizerConfig("characters", 256, kind="characters")

    def parts(settings: DataConfig) -> tuple[str, ...]:
        prepared = prepare_data(settings, characters, tmp_path / "outputs", log=lambda _: None)
        inspect_data(prepared, 1, io.StringIO())
        return tuple("".join(documents_of(prepared, "language", split)) for split in SPLITS)

    train, val, test = parts(settings)
    assert (train + val, test) == (text, "")
    assert len(train) == int(0.9 * len(text))
    assert "".join(parts(replace(settings, test_fraction=0.05))) == text
    assert parts(settings)[0] == train, "the folders are different"


def test_manifest_counts_equal_the_data(prepare: Prepare) -> None:
    prepared = prepare()
    assert prepared.folder.name.startswith("local-")
    assert prepared.vocab_size == 300
    assert prepared.eot_id == 0
    for corpus in CORPORA:
        entry = prepared.manifest["corpora"][corpus]
        assert entry["bytes"] == sum(entry["splits"][split]["bytes"] for split in SPLITS)
        assert sum(entry["licences"].values()) == entry["documents"] == 200
        for split in SPLITS:
            texts = documents_of(prepared, corpus, split)
            tokens = prepared.tokens(corpus, split)
            assert tokens.dtype == np.uint16
            assert not tokens.flags.writeable
            figures = entry["splits"][split]
            assert figures["documents"] == len(texts)
            assert figures["bytes"] == sum(len(text.encode()) for text in texts)
            assert figures["tokens"] == len(tokens)
            assert figures["words"] == sum(len(text.split()) for text in texts)
            assert figures["tokens_per_word"] == len(tokens) / figures["words"]
            counts = Counter(tokens.tolist()).values()
            entropy = -sum(n / len(tokens) * math.log(n / len(tokens)) for n in counts)
            references = prepared.references(corpus, split)
            assert references["unigram_loss"] == pytest.approx(entropy)
            assert references["uniform_loss"] == pytest.approx(math.log(300))
            assert references["bytes_per_token"] == figures["bytes"] / len(tokens)
            assert references["floor_bits_per_byte"] is None


def test_contents_do_not_depend_on_the_output_folder(prepare: Prepare) -> None:
    one, two = prepare("one"), prepare("two/deeper")
    assert one.fingerprint == two.fingerprint
    assert one.folder.name == two.folder.name
    assert contents(one.folder) == contents(two.folder)


def test_batches_do_not_change_the_result(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepare("one")
    monkeypatch.setattr(packing, "BATCH_BYTES", 50)  # longer texts are cut
    assert contents(prepare("two").folder) == contents(one.folder)


def test_prepared_data_is_returned_without_work(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare()
    monkeypatch.setattr(prepare_module, "Pipeline", None)
    assert prepare().fingerprint == first.fingerprint
    with pytest.raises(TypeError):
        prepare(rerun=True)
    assert load_prepared(first.folder).fingerprint == first.fingerprint


def test_changed_input_is_prepared_again(prepare: Prepare, corpus_files: tuple[Path, Path]) -> None:
    first = prepare()
    with corpus_files[0].open("a") as handle:
        handle.write("\n<|endoftext|>\nA new story.\n")
    second = prepare()
    assert second.folder == first.folder
    assert second.fingerprint != first.fingerprint
    assert second.manifest["corpora"]["language"]["documents"] == 201


def test_settings_decide_the_folder(prepare: Prepare, local_data: DataConfig) -> None:
    first = prepare()
    other = prepare(data=replace(local_data, seed=1))
    assert other.folder != first.folder
    assert other.fingerprint != first.fingerprint


class Killed(BaseException):
    """Stands for a kill; no code catches it."""


def interrupt(patch: pytest.MonkeyPatch, module: object, name: str, calls: int) -> None:
    """Replace a function by one that raises `Killed` after `calls` calls."""
    whole = getattr(module, name)
    left = iter(range(calls))

    def stop(*args: Any) -> Any:
        if next(left, None) is None:
            raise Killed
        return whole(*args)

    patch.setattr(module, name, stop)


def test_preparation_resumes_after_a_kill_at_any_step(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(packing, "BATCH_BYTES", 2000)
    monkeypatch.setattr(packing, "BATCHES_PER_RECORD", 2)
    whole = contents(prepare("whole").folder)
    root = tmp_path / "outputs" / "data"
    places = [
        *((pipeline, "write_record", calls) for calls in (0, 1, 1, 1, 1)),  # each attempt finishes one more step
        *((packing, "write_record", calls) for calls in (0, 1, 1)),
        *((packing, "encode_batch", calls) for calls in (2, 3)),
        (pipeline, "describe_corpus", 1),
        (prepare_module, "write_text", 0),
    ]
    for module, name, calls in places:
        with monkeypatch.context() as patch:
            interrupt(patch, module, name, calls)
            with pytest.raises(Killed):
                prepare()
        assert all(path.name.startswith(".") for path in root.iterdir()), "no finished folder"
    prepared = prepare()
    assert contents(prepared.folder) == whole
    assert {path.name for path in root.iterdir()} == {prepared.folder.name, f".lock-{prepared.folder.name}"}


def test_finished_steps_are_not_repeated(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, pipeline, "make_tokenizer", 0)
        with pytest.raises(Killed):
            prepare()
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "read_documents", None)
        patch.setattr(pipeline, "find_duplicates", None)
        prepare()


def test_changed_input_restarts_unfinished_work(
    prepare: Prepare, corpus_files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, pipeline, "make_tokenizer", 0)
        with pytest.raises(Killed):
            prepare()
    with corpus_files[0].open("a") as handle:
        handle.write("\n<|endoftext|>\nA new story.\n")
    assert prepare().manifest["corpora"]["language"]["documents"] == 201


def test_invalid_input_leaves_no_files(prepare: Prepare, corpus_files: tuple[Path, Path], tmp_path: Path) -> None:
    with corpus_files[1].open("a") as handle:
        handle.write("{")
    with pytest.raises(UserError, match="not JSON"):
        prepare()
    assert [path.name for path in (tmp_path / "outputs" / "data").iterdir() if not path.name.startswith(".lock")] == []


def test_max_tokens_limits_only_training_text(prepare: Prepare, local_data: DataConfig) -> None:
    whole = prepare()
    cut = prepare(data=replace(local_data, code=replace(local_data.code, max_tokens=3000)))
    assert cut.folder != whole.folder
    texts = documents_of(cut, "code", "train")
    assert texts == documents_of(whole, "code", "train")[: len(texts)], "whole documents in reading order"
    tokens, starts = cut.tokens("code", "train"), cut.offsets("code", "train")
    assert starts[-1] + 1 < 3000 <= len(tokens)
    for split in ("val", "test"):
        assert documents_of(cut, "code", split) == documents_of(whole, "code", split)
    entry = cut.manifest["corpora"]["code"]
    assert entry["documents"] + entry["dropped"]["beyond max_tokens"] == 200
    assert sum(entry["licences"].values()) == entry["documents"]


def test_near_duplicates_of_held_out_text_are_dropped_from_training(
    prepare: Prepare, local_data: DataConfig, corpus_files: tuple[Path, Path]
) -> None:
    before = prepare()
    text = documents_of(before, "code", "test")[0]
    copy = text.replace("\n", "\n# a copy\n", 1)
    group = next(g for g, e in before.manifest["corpora"]["code"]["groups"].items() if e["split"] == "train")
    with corpus_files[1].open("a") as handle:
        handle.write(json.dumps({"text": copy, "source": group, "path": "bin/copy"}) + "\n")

    def look(what: str) -> tuple[bool, dict[str, Any]]:
        code = replace(local_data.code, near_duplicates=what, hygiene=HygieneConfig(drop_near_duplicates=False))
        prepared = prepare(data=replace(local_data, code=code))
        assert text in documents_of(prepared, "code", "test"), "held-out text is kept"
        return copy in documents_of(prepared, "code", "train"), prepared.manifest["corpora"]["code"]

    kept, entry = look("drop")
    assert not kept and entry["dropped"] == {"near duplicate of held-out text": 1}
    assert entry["left_out"]["near duplicate of held-out text"] == {
        "bytes": len(copy.strip().encode()),
        "first": [f"{corpus_files[1]}:201 (bin/copy)"],
    }
    near = entry["near_duplicates"]
    assert near["found"] == 1 and near["dropped"] and near["held_out"] == before_held_out(before)
    assert near["examples"][0]["train"] == f"{group}: bin/copy" and near["examples"][0]["jaccard"] >= 0.7
    assert near["examples"][0]["test"].startswith("package-")
    assert near["examples"][0]["where"][0] == f"{corpus_files[1]}:201 (bin/copy)"
    assert near["examples"][0]["where"][1].startswith(f"{corpus_files[1]}:")
    assert near["examples"][0]["excerpts"][0].startswith("#!/bin/bash # a copy Story ")
    kept, entry = look("report")
    assert kept and entry["dropped"] == {} and entry["near_duplicates"]["found"] == 1
    kept, entry = look("off")
    assert kept and entry["near_duplicates"] is None


def before_held_out(prepared: PreparedData) -> int:
    splits = prepared.manifest["corpora"]["code"]["splits"]
    return splits["val"]["documents"] + splits["test"]["documents"]


def test_every_document_has_its_origin(prepare: Prepare, corpus_files: tuple[Path, Path]) -> None:
    prepared = prepare()
    rows = {row["text"].strip("\n"): row for row in map(json.loads, corpus_files[1].read_text().splitlines())}
    origins = [json.loads(line) for line in (prepared.folder / "code.origins.jsonl").read_text().splitlines()]
    for split in SPLITS:
        table = np.load(prepared.folder / f"code_{split}.documents.npy")
        for text, record in zip(documents_of(prepared, "code", split), table, strict=True):
            origin, row = origins[record["origin"]], rows[text]
            assert (origin["group"], origin["path"], origin["licence"]) == (row["source"], row["path"], "MIT")
            assert record["digest"].tobytes() == hashlib.blake2b(text.encode(), digest_size=16).digest()


def test_the_data_card_agrees_with_the_manifest(prepare: Prepare) -> None:
    prepared = prepare()
    card = (prepared.folder / "DATA_CARD.md").read_text()
    for corpus in CORPORA:
        for entry in prepared.manifest["corpora"][corpus]["splits"].values():
            assert f"| {entry['documents']:,} | {entry['bytes']:,} | {entry['tokens']:,} |" in card
    assert prepared.fingerprint in card and "package-3" in card and "| MIT | 200 |" in card
    assert card.count("`hygiene.max_line_length`: 1000") == 1, "only for code"


def test_generated_text_has_an_entropy_floor(
    prepare: Prepare, local_data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(corpus: CorpusConfig, name: str, seed: int, dropped: Counter[str], cache: Path) -> Iterator[Document]:
        for i in range(100):
            yield Document(f"the cat ran home {i % 50}\n" * 3, bits=10.0 + i % 50)

    monkeypatch.setitem(registry.SOURCES, "made_up", generate)
    for module in (registry, pipeline):
        monkeypatch.setattr(module, "GENERATED", ("made_up",))
    prepared = prepare(data=replace(local_data, code=CorpusConfig(source="made_up")))
    entry = prepared.manifest["corpora"]["code"]
    assert entry["documents"] == 100, "repeated generated documents are kept"
    assert entry["dropped"] == {}
    for split in SPLITS:
        texts = documents_of(prepared, "code", split)
        bits = sum(10.0 + int(text.split()[4]) for text in texts)
        floor = prepared.references("code", split)["floor_bits_per_byte"]
        assert floor == pytest.approx(bits / sum(len(text.encode()) for text in texts))


def test_special_token_in_text_does_not_end_a_document(
    prepare: Prepare, local_data: DataConfig, corpus_files: tuple[Path, Path]
) -> None:
    with corpus_files[1].open("a") as handle:
        handle.write(json.dumps({"text": f"echo '{EOT}' and {EOT}", "source": "package-1"}) + "\n")
    prepared = prepare()
    texts = [text for split in SPLITS for text in documents_of(prepared, "code", split)]
    assert f"echo '{EOT}' and {EOT}" in texts
    assert len(texts) == 201


def test_find_prepared(
    prepare: Prepare, local_data: DataConfig, small_vocabulary: TokenizerConfig, tmp_path: Path
) -> None:
    def find(data: DataConfig) -> Path | None:
        found = find_prepared(data, small_vocabulary, tmp_path / "outputs")
        return found and found.folder

    assert find(local_data) is None
    first = prepare().folder
    assert find(local_data) == first
    without_paths = replace(
        local_data, language=replace(local_data.language, paths=[]), code=replace(local_data.code, paths=[])
    )
    assert find(without_paths) == first
    newer_data = replace(local_data, language=replace(local_data.language, paths=local_data.language.paths * 2))
    newer = prepare(data=newer_data).folder
    os.utime(newer / "manifest.json", (2**31, 2**31))
    (tmp_path / "outputs" / "data" / "other").mkdir()
    (tmp_path / "outputs" / "data" / "other" / "manifest.json").write_text("{")
    assert find(without_paths) == newer != first
    assert find(replace(without_paths, seed=5)) is None
    assert find(replace(local_data, code=replace(local_data.code, paths=["elsewhere"]))) is None
    assert find(DataConfig(name="elsewhere", dir=str(first))) == first
    with pytest.raises(UserError, match=r"data\.dir=.*nowhere: no prepared data there"):
        find(replace(local_data, dir=str(tmp_path / "nowhere")))


def flip_a_byte(path: Path) -> None:
    """Change one byte and keep the modification time."""
    before = path.stat()
    with path.open("r+b") as handle:
        handle.seek(-3, os.SEEK_END)
        byte = handle.read(1)[0]
        handle.seek(-3, os.SEEK_END)
        handle.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_unchanged_files_are_not_hashed_again(
    prepare: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = prepare().folder
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / VERIFIED).unlink()
    monkeypatch.setattr(prepared_module, "file_sha256", None)
    load_prepared(folder)
    with pytest.raises(TypeError):
        load_prepared(copy)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("manifest.json", lambda path: path.write_text("{")),
        ("manifest.json", lambda path: path.write_text("[]")),
        (
            "manifest.json",
            lambda path: path.write_text(
                path.read_text().replace(f'"format_version": {FORMAT_VERSION}', '"format_version": 1')
            ),
        ),
        ("code_val.npy", lambda path: path.unlink()),
        ("code_val.npy", lambda path: os.truncate(path, path.stat().st_size - 2)),
        ("code_val.npy", lambda path: os.truncate(path, 0)),
        ("language_train.npy", lambda path: np.save(path, np.zeros(5))),
        ("language_train.npy", flip_a_byte),
        ("code_test.offsets.npy", flip_a_byte),
        ("tokenizer.json", lambda path: path.unlink()),
        ("tokenizer.json", lambda path: path.write_text("{}")),
    ],
)
def test_damage_is_reported_and_repaired(prepare: Prepare, file: str, damage: Callable[[Path], object]) -> None:
    prepared = prepare()
    damage(prepared.folder / file)
    with pytest.raises(UserError, match=file) as error:
        load_prepared(prepared.folder)
    assert "\n" not in str(error.value)
    assert prepare().fingerprint == prepared.fingerprint


def test_no_remaining_document_is_an_error(prepare: Prepare, local_data: DataConfig, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.sh").write_bytes(b"\0")
    data = replace(local_data, code=replace(local_data.code, paths=[str(empty)]))
    with pytest.raises(
        UserError,
        match=r"data\.code\.paths=.*no documents in them \(dropped: 1 binary \(1 bytes: .*a\.sh\)\).*extensions",
    ):
        prepare(data=data)


def test_a_single_document_is_split_by_position_instead_of_by_group(
    prepare: Prepare, local_data: DataConfig, tmp_path: Path
) -> None:
    book = "".join(f"It was dark night number {number}.\n" for number in range(400))
    (tmp_path / "book.txt").write_text(book)
    prepared = prepare(
        data=replace(local_data, language=replace(local_data.language, paths=[str(tmp_path / "book.txt")]))
    )
    assert "".join(text for split in SPLITS for text in documents_of(prepared, "language", split)) == book.strip()
    assert {name: corpus["split"] for name, corpus in prepared.manifest["corpora"].items()} == {
        "language": "position",
        "code": "group",
    }


def test_documents_of_two_groups_cannot_be_split(prepare: Prepare, local_data: DataConfig, tmp_path: Path) -> None:
    rows = [json.dumps({"text": f"Story {number}", "source": f"book {number % 2}"}) for number in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    data = replace(local_data, language=replace(local_data.language, paths=[str(tmp_path / "rows.jsonl")]))
    with pytest.raises(UserError, match=r"data\.language: 2 group.*vary `source`"):
        prepare(data=data)


def test_prompts_are_encoded_as_documents_are(prepare: Prepare) -> None:
    prepared = prepare()
    tokenizer = load_tokenizer(prepared.tokenizer_path)
    first = documents_of(prepared, "code", "train")[0]
    assert prepared.tokens("code", "train")[1 : 1 + len(encode(tokenizer, first))].tolist() == encode(tokenizer, first)


def test_large_vocabularies_use_four_bytes_per_token(tmp_path: Path) -> None:
    file = packing.NpyFile(tmp_path / "a.npy", packing.token_dtype(2**16 + 1))
    file.append([2**16, 3])
    file.complete()
    assert np.load(tmp_path / "a.npy").tolist() == [2**16, 3]
    assert packing.token_dtype(2**16) == np.uint16
