"""The prepared folder: the same bytes for the same settings, whole or not there, and honest figures in its manifest."""

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from src.config import CorpusConfig, DataConfig, TokenizerConfig, UserError
from src.data import packing, sources
from src.data.packing import PreparedData, find_prepared, load_prepared, prepare_data
from src.data.prepared import CORPORA, SPLITS
from src.data.sources import Document
from src.data.tokenizer import EOT, EOT_ID, encode, load_tokenizer

Prepare = Callable[..., PreparedData]


@pytest.fixture
def prepare(local_data: DataConfig, small_vocabulary: TokenizerConfig, tmp_path: Path) -> Prepare:
    def run(root: str = "outputs", data: DataConfig = local_data, rerun: bool = False) -> PreparedData:
        return prepare_data(data, small_vocabulary, tmp_path / root, rerun=rerun, say=lambda _: None)

    return run


def documents_of(prepared: PreparedData, corpus: str, split: str) -> list[str]:
    tokenizer = load_tokenizer(prepared.tokenizer_path)
    tokens = prepared.tokens(corpus, split)
    ends = np.flatnonzero(tokens == EOT_ID)
    assert ends[0] == 0
    assert ends[-1] == len(tokens) - 1
    return [tokenizer.decode(tokens[a + 1 : b].tolist()) for a, b in pairwise(ends)]


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
    for split in SPLITS:
        assert set(prepared.manifest["corpora"]["code"]["splits"][split]["group_names"]) == groups[split]


def test_manifest_figures(prepare: Prepare) -> None:
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
            counts = Counter(tokens.tolist()).values()
            entropy = -sum(n / len(tokens) * math.log(n / len(tokens)) for n in counts)
            references = prepared.references(corpus, split)
            assert references["unigram_loss"] == pytest.approx(entropy)
            assert references["uniform_loss"] == pytest.approx(math.log(300))
            assert references["bytes_per_token"] == figures["bytes"] / len(tokens)
            assert references["floor_bits_per_byte"] is None


def test_same_contents_wherever_it_is_written(prepare: Prepare) -> None:
    one, two = prepare("one"), prepare("two/deeper")
    assert one.fingerprint == two.fingerprint
    assert one.folder.name == two.folder.name
    assert sorted(os.listdir(one.folder)) == sorted(os.listdir(two.folder))
    for file in sorted(one.folder.iterdir()):
        assert file.read_bytes() == (two.folder / file.name).read_bytes()


def test_batches_do_not_change_the_result(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    one = prepare("one")
    monkeypatch.setattr(packing, "BATCH_BYTES", 500)
    assert prepare("two").fingerprint == one.fingerprint


def test_done_already_is_returned_at_once(prepare: Prepare, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare()
    monkeypatch.setattr(packing, "_write", None)
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


def test_killed_half_way_leaves_nothing(prepare: Prepare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packing, "_describe", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare()
    assert [path.name for path in (tmp_path / "outputs" / "data").iterdir() if not path.name.startswith(".lock")] == []
    prepared = prepare()
    dead = prepared.folder.with_name(f".{prepared.folder.name}.1.tmp")
    dead.mkdir()
    prepare()
    assert not dead.exists(), "what a process left that was killed outright"


def test_generated_text_has_its_floor(
    prepare: Prepare, local_data: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def generate(corpus: CorpusConfig, name: str, seed: int, dropped: Counter[str], cache: Path) -> Iterator[Document]:
        for i in range(100):
            yield Document(f"the cat ran home {i % 50}\n" * 3, group=str(i), bits=10.0 + i % 50)

    monkeypatch.setitem(sources.SOURCES, "made_up", generate)
    prepared = prepare(data=replace(local_data, code=CorpusConfig(source="made_up")))
    entry = prepared.manifest["corpora"]["code"]
    assert entry["documents"] == 100, "a repeated draw is kept"
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


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("manifest.json", lambda path: path.write_text("{")),
        ("manifest.json", lambda path: path.write_text("[]")),
        (
            "manifest.json",
            lambda path: path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 9')),
        ),
        ("code_val.npy", lambda path: path.unlink()),
        ("code_val.npy", lambda path: os.truncate(path, path.stat().st_size - 2)),
        ("code_val.npy", lambda path: os.truncate(path, 0)),
        ("language_train.npy", lambda path: np.save(path, np.zeros(5))),
        ("tokenizer.json", lambda path: path.unlink()),
        ("tokenizer.json", lambda path: path.write_text("{}")),
    ],
)
def test_damage_is_named_and_repaired(prepare: Prepare, file: str, damage: Callable[[Path], object]) -> None:
    prepared = prepare()
    damage(prepared.folder / file)
    with pytest.raises(UserError, match=file) as error:
        load_prepared(prepared.folder)
    assert "\n" not in str(error.value)
    assert prepare().fingerprint == prepared.fingerprint


def test_no_document_left(prepare: Prepare, local_data: DataConfig, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "a.sh").write_bytes(b"\0")
    data = replace(local_data, code=replace(local_data.code, paths=[str(empty)]))
    with pytest.raises(UserError, match=r"data\.code\.paths=.*no document in them \(dropped: 1 binary\).*extensions"):
        prepare(data=data)


def test_one_file_cannot_be_split(prepare: Prepare, local_data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("It was a dark night.\n" * 100)
    data = replace(local_data, language=replace(local_data.language, paths=[str(tmp_path / "book.txt")]))
    with pytest.raises(UserError, match=r"data\.language: 1 group.*<\|endoftext\|>"):
        prepare(data=data)


def test_prompts_and_documents_share_their_tokens(prepare: Prepare) -> None:
    prepared = prepare()
    tokenizer = load_tokenizer(prepared.tokenizer_path)
    first = documents_of(prepared, "code", "train")[0]
    assert prepared.tokens("code", "train")[1 : 1 + len(encode(tokenizer, first))].tolist() == encode(tokenizer, first)


def test_large_vocabulary_takes_four_bytes(tmp_path: Path) -> None:
    with packing._TokenFile(tmp_path / "a.npy", 2**16 + 1) as file:
        file.append([2**16, 3])
        file.complete()
    assert np.load(tmp_path / "a.npy").tolist() == [EOT_ID, 2**16, 3]
