"""Near duplicates equal those of a comparison of all pairs."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.data import parallel_map
from src.data.document import Document
from src.data.filters import near_duplicates
from src.data.filters.near_duplicates import (
    MAX_BUCKET_SIZE,
    NearDuplicateIndex,
    Sketch,
    drop_near_duplicates,
    jaccard,
    sketch_texts,
)
from src.data.parallel_map import group_into_batches
from tests.reference.near_duplicates import reference_deduplication, reference_jaccard


def families(n_families: int, n_members: int, n_edits: int, seed: int = 0) -> list[str]:
    """Return families of texts of 300 words, shuffled; members differ by replaced words (5 shingles each)."""
    rng = random.Random(seed)
    texts = []
    for family in range(n_families):
        original = [f"w{family}x{rng.randrange(10**6)}" for _ in range(300)]
        for _ in range(n_members):
            words = list(original)
            for place in rng.sample(range(300), n_edits):
                words[place] = f"edit{rng.randrange(10**9)}"
            texts.append(" ".join(words))
    rng.shuffle(texts)
    return texts


def filter_texts(texts: list[str]) -> tuple[list[str], Counter[str]]:
    dropped: Counter[str] = Counter()
    return [document.text for document in drop_near_duplicates(sketched(map(Document, texts)), dropped)], dropped


def sketched(documents: Iterable[Document]) -> Iterator[tuple[list[Document], Sketch]]:
    for batch in group_into_batches(documents, characters=lambda document: len(document.text)):
        yield batch, sketch_texts([document.text for document in batch])


@given(st.lists(st.lists(st.sampled_from(["a", "b", "é", "-", "\n"])), min_size=2, max_size=2))
def test_similarity_equals_the_jaccard_of_all_shingles(words: list[list[str]]) -> None:
    a, b = (" ".join(part) for part in words)
    assert jaccard(*sketch_texts([a, b]).shingles) == reference_jaccard(a, b)
    assert jaccard(*reversed(sketch_texts(["", b, a, "x"]).shingles[1:3])) == reference_jaccard(a, b), (
        "independent of the other texts"
    )


@pytest.mark.parametrize("n_edits", [2, 30])  # similarities of about 0.87, and of 0.37
@pytest.mark.parametrize("batch", [1, 7, parallel_map.BATCH_ITEMS])
def test_result_equals_a_comparison_of_all_pairs(monkeypatch: pytest.MonkeyPatch, n_edits: int, batch: int) -> None:
    monkeypatch.setattr(parallel_map, "BATCH_ITEMS", batch)
    texts = families(n_families=10, n_members=4, n_edits=n_edits)
    kept, dropped = filter_texts(texts)
    assert kept == [texts[number] for number in reference_deduplication(texts, near_duplicates.THRESHOLD)]
    assert len(kept) == (10 if n_edits == 2 else 40)
    assert dropped["near duplicate"] == len(texts) - len(kept)


def test_most_pairs_at_the_threshold_are_found(tmp_path: Path) -> None:
    pairs = [families(1, 2, 5, seed) for seed in range(100)]
    near = [pair for pair in pairs if 0.7 <= reference_jaccard(*pair) < 0.76]
    assert len(near) > 50
    with NearDuplicateIndex(tmp_path) as index:
        index.add(sketch_texts([a for a, _ in near]))
        found = index.find(sketch_texts([b for _, b in near]))
    right = sum(match is not None and match[0] == number for number, match in enumerate(found))
    assert right >= 0.9 * len(near)


def test_index_finds_near_duplicates_across_sets(tmp_path: Path) -> None:
    held_out = families(40, 1, 0)
    with NearDuplicateIndex(tmp_path) as index:
        for start in range(0, 40, 3):  # many sorted runs, merged as they grow
            index.add(sketch_texts(held_out[start : start + 3]))
        expected = ["another text of six words", "", held_out[39] + " end", held_out[0]]
        assert index.find(sketch_texts(expected)) == [
            None,
            None,
            (39, 296 / 297),
            (0, 1.0),
        ]
        assert len(index) == 40


def test_large_buckets_cost_a_bounded_number_of_comparisons(tmp_path: Path) -> None:
    with NearDuplicateIndex(tmp_path) as index:
        index.add(sketch_texts(["the same words over and over"] * (3 * MAX_BUCKET_SIZE)))
        assert index.find(sketch_texts(["the same words over and over"])) == [(0, 1.0)]


def test_texts_without_words_are_kept() -> None:
    words = "one text of five words"
    assert filter_texts([words, words, "... !", "??", ""])[0] == [words, "... !", "??", ""]


def test_hashes_equal_recorded_values() -> None:
    """Recorded values: other hashes on another machine or version would drop other documents."""
    one = sketch_texts(["a b c d e f"])
    assert one.shingles[0].tolist() == [3336016827, 3569684126]
    assert one.bands[0, :2].tolist() == [18265345828721052643, 6163263980054320552]
