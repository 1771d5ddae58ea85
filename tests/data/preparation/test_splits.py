"""The split of documents: equal to a simple reference in memory, close to its fractions, without shared groups."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.cli.data_validation import check_data
from src.config.schema import CorpusConfig, DataConfig, TokenizerConfig, UserError
from src.data.document import Document
from src.data.preparation import document_store, splits
from src.data.preparation.document_store import DocumentStore
from src.data.preparation.splits import (
    DUPLICATE,
    SPLITS,
    TEST,
    TRAIN,
    VAL,
    Groups,
    assign_by_position,
    assign_groups,
    count_groups,
    find_duplicates,
    iterate_groups,
    split_groups,
    split_positions,
)
from tests.reference.splits import reference_split_assignments


def write_store(folder: Path, documents: list[Document], seed: int = 0) -> DocumentStore:
    found = DocumentStore(folder / "code")
    found.write(documents, seed)
    return found


def assignments(found: DocumentStore, val: float, test: float) -> list[str]:
    split_assignment = find_duplicates(found)
    assign_groups(
        found, split_assignment, split_groups(lambda: iterate_groups(found, split_assignment), val, test, "data.code")
    )
    return ["duplicate" if number == DUPLICATE else SPLITS[number] for number in split_assignment.tolist()]


@pytest.mark.parametrize(("block", "partition"), [(1 << 16, 1 << 20), (50, 20), (64, 40)])
@pytest.mark.parametrize("seed", [0, 1])
def test_assignment_equals_the_reference_in_memory(
    block: int, partition: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document_store, "BLOCK", block)
    monkeypatch.setattr(splits, "PARTITION", partition)
    rng = random.Random(seed)
    groups = [None, None, *(f"package-{i}" for i in range(12))]
    documents = [
        Document(
            f"{rng.randrange(150)} é" * rng.randint(1, 3),
            group=rng.choice(groups),
            bits=1.0 if rng.random() < 0.05 else None,
        )
        for _ in range(300)
    ]
    got = assignments(write_store(tmp_path, documents, seed), 0.1, 0.2)
    assert got == reference_split_assignments(documents, 0.1, 0.2, seed)
    assert set(got) == {"train", "val", "test", "duplicate"}


def given_groups(sizes: list[int], seed: int = 0) -> Groups:
    """Give each group of a size a random hash, and sort the groups by it."""
    rng = random.Random(seed)
    hashes = np.array([rng.getrandbits(64) for _ in sizes], dtype=np.uint64)
    order = np.argsort(hashes)
    return Groups(hashes[order], np.array(sizes, dtype=np.int64)[order])


def parts(groups: Groups, val: float, test: float) -> dict[str, np.ndarray]:
    """Return the sizes of the groups of each split; groups are yielded three at a time."""

    def walk() -> Iterator[Groups]:
        for i in range(0, len(groups.hashes), 3):
            yield Groups(groups.hashes[i : i + 3], groups.sizes[i : i + 3])

    found = split_groups(walk, val, test, "data.code")
    held_out = {SPLITS[target]: groups.sizes[np.isin(groups.hashes, found[target])] for target in (VAL, TEST)}
    assert not np.isin(found[VAL], found[TEST]).any()
    return {"train": groups.sizes[~np.isin(groups.hashes, np.concatenate([found[VAL], found[TEST]]))], **held_out}


@pytest.mark.parametrize("seed", range(20))
def test_unequal_groups_come_close_to_the_fractions(seed: int) -> None:
    """For 32 packages with sizes of 1/rank, the splits are near their fractions and have several groups."""
    got = parts(given_groups([2_000_000 // rank for rank in range(1, 33)], seed), 0.05, 0.05)
    total = sum(sizes.sum() for sizes in got.values())
    assert 2_000_000 in got["train"]
    for split in ("val", "test"):
        assert 0.035 <= got[split].sum() / total <= 0.05
        assert len(got[split]) >= 2


def test_many_small_groups_fill_their_fraction() -> None:
    rng = random.Random(0)
    got = parts(given_groups([rng.randint(200, 3000) for _ in range(2000)]), 0.1, 0.02)
    total = sum(sizes.sum() for sizes in got.values())
    assert got["val"].sum() / total == pytest.approx(0.1, rel=0.01)
    assert got["test"].sum() / total == pytest.approx(0.02, rel=0.02)


@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=30), st.floats(0.01, 0.6), st.floats(0.01, 0.39))
def test_no_split_is_empty(sizes: list[int], val: float, test: float) -> None:
    got = parts(given_groups(sizes), val, test)
    assert all(len(found) for found in got.values())
    assert sorted(np.concatenate(list(got.values())).tolist()) == sorted(sizes)


def test_split_depends_only_on_group_names_and_seed(tmp_path: Path) -> None:
    documents = [Document(f"text {i}", group=f"g{i % 40}") for i in range(200)]
    (tmp_path / "turned").mkdir()
    (tmp_path / "other").mkdir()
    got = assignments(write_store(tmp_path, documents), 0.1, 0.1)
    assert assignments(write_store(tmp_path / "turned", documents[::-1]), 0.1, 0.1) == got[::-1]
    assert assignments(write_store(tmp_path / "other", documents, seed=1), 0.1, 0.1) != got


def test_fewer_than_three_groups_are_an_error() -> None:
    with pytest.raises(UserError, match=r"data\.code: 2 group\(s\)"):
        parts(given_groups([1, 1]), 0.1, 0.1)


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.1), (0.1, -0.1), (0.6, 0.4)])
def test_fractions_out_of_range_are_an_error(val: float, test: float) -> None:
    corpus = CorpusConfig(source="local")
    with pytest.raises(UserError, match=r"data\.val_fraction=.*data\.test_fraction="):
        check_data(DataConfig("x", 0, corpus, corpus, "group", val, test), TokenizerConfig("bpe", 500))


def test_a_sample_covers_the_corpus_and_respects_its_size(tmp_path: Path) -> None:
    documents = [Document(f"document {i:04} é\n" * 3) for i in range(2000)]
    found = write_store(tmp_path, documents)
    chosen = np.arange(2000) % 2 == 0
    texts = list(found.sample(chosen, 5_000))
    assert sum(len(text.encode()) for text in texts) in (4_999, 5_000), "the last text may be cut within a character"
    numbers = [int(text[9:13]) for text in texts[:-1]]
    assert all(number % 2 == 0 for number in numbers) and len(set(numbers)) == len(numbers)
    assert min(numbers) < 200 and max(numbers) > 1800
    assert sorted(found.sample(chosen, 10**9)) == sorted(document.text for document in documents[::2])


def read_back(found: DocumentStore) -> list[str]:
    return [text for _, text in found.texts(np.ones(len(found), dtype=bool))]


def test_a_document_is_cut_by_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cuts are between characters, two cuts may be in one document, and each part is a complete document."""
    monkeypatch.setattr(document_store, "BLOCK", 2)
    text = "é" * 10 + "one two"  # 27 bytes
    found = write_store(tmp_path, [Document("ab"), Document("cd"), Document(text), Document("ef")])
    places = found.cut_positions([13, 30])
    assert places == [12, 30], "13 is within a character"
    found.cut(places)
    parts = ["ab", "cd", "é" * 4, "é" * 6 + "one tw", "o", "ef"]
    assert read_back(found) == parts
    assert found.cut_positions([13, 30]) == places
    (tmp_path / "parts").mkdir()
    alone = write_store(tmp_path / "parts", [Document(part) for part in parts])
    for (_, ours, sizes), (_, theirs, others) in zip(found.blocks(), alone.blocks(), strict=True):
        assert sizes.tolist() == others.tolist()
        for key in ("end", "digest", "words"):
            assert (ours[key] == theirs[key]).all(), key


def test_a_generated_document_is_not_cut(tmp_path: Path) -> None:
    found = write_store(tmp_path, [Document("abc", bits=1.0), Document("defg", bits=1.0), Document("hi", bits=1.0)])
    assert found.cut_positions([0, 3, 4, 9]) == [0, 3, 7, 9]


@pytest.mark.parametrize(
    ("val", "test", "expected"), [(0.1, 0, [90, 100]), (0.1, 0.05, [85, 95]), (0.3, 0.1, [60, 90])]
)
def test_positions_are_exact(val: float, test: float, expected: list[int]) -> None:
    assert split_positions(100, val, test) == expected


def test_splits_by_position_are_consecutive(tmp_path: Path) -> None:
    found = write_store(tmp_path, [Document(text) for text in ("aaaa", "bbbb", "aaaa", "cc", "dd")])
    split_assignment = find_duplicates(found)
    assign_by_position(found, split_assignment, found.cut_positions([8, 14]), "data.code", with_test=True)
    assert split_assignment.tolist() == [TRAIN, TRAIN, DUPLICATE, VAL, TEST]
    assert count_groups(found, split_assignment) == {"train": 2, "val": 1, "test": 1}
    with pytest.raises(UserError, match=r"data\.split=position: no text of data\.code falls into test; give more text"):
        assign_by_position(found, split_assignment, [8, 16], "data.code", with_test=True)
    with pytest.raises(UserError, match=r"falls into val; .* a larger data\.val_fraction"):
        assign_by_position(found, split_assignment, [12, 12], "data.code", with_test=False)
