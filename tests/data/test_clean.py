"""What is dropped, and that the split is fair to its fractions and leaks nothing."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.config import UserError
from src.data.clean import clean, normalise, split_groups
from src.data.sources import Document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\r\n", "a\nb"),
        ("\n \n\t\n  indented\n\nend  \n \n", "  indented\n\nend  "),
        ("a\rb", "a\rb"),
        (" \n\t\n", ""),
        ("", ""),
        ("x", "x"),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


@given(st.text(alphabet=" \t\nab"))
def test_normalise_strips_blank_lines_only(text: str) -> None:
    lines = text.split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    assert normalise(text) == "\n".join(lines)


def test_empty_and_duplicate_documents_go() -> None:
    dropped: Counter[str] = Counter()
    documents = [Document("a\n"), Document(" \n"), Document("\r\na"), Document("b", group="g"), Document("b")]
    assert list(clean(documents, dropped)) == [Document("a"), Document("b", group="g")]
    assert dropped == {"empty": 1, "duplicate": 2}


def test_generated_documents_pass_untouched() -> None:
    documents = [Document("\na\n", group=str(i), bits=3.0) for i in range(3)]
    assert list(clean(documents, Counter())) == documents


def shares(sizes: dict[str, int], split: dict[str, str]) -> dict[str, float]:
    total = sum(sizes.values())
    return {part: sum(sizes[g] for g in sizes if split[g] == part) / total for part in ("train", "val", "test")}


@pytest.mark.parametrize("seed", range(20))
def test_few_unequal_groups(seed: int) -> None:
    """32 packages, sizes falling as 1/rank, the largest a quarter of all: near the fractions, several groups each."""
    sizes = {f"package-{rank}": 2_000_000 // rank for rank in range(1, 33)}
    split = split_groups(sizes, 0.05, 0.05, seed, "code")
    got = shares(sizes, split)
    assert split["package-1"] == "train"
    for part in ("val", "test"):
        assert 0.035 <= got[part] <= 0.05
        assert sum(1 for group in split if split[group] == part) >= 2


def test_many_small_groups_fill_their_fraction() -> None:
    rng = random.Random(0)
    sizes = {str(i): rng.randint(200, 3000) for i in range(5000)}
    got = shares(sizes, split_groups(sizes, 0.1, 0.02, 0, "language"))
    assert got["val"] == pytest.approx(0.1, rel=0.01)
    assert got["test"] == pytest.approx(0.02, rel=0.01)


@given(
    st.lists(st.integers(1, 10**6), min_size=3, max_size=30),
    st.floats(0.01, 0.6),
    st.floats(0.01, 0.39),
    st.integers(0),
)
def test_no_split_is_ever_empty(sizes: list[int], val: float, test: float, seed: int) -> None:
    groups = {f"g{i}": size for i, size in enumerate(sizes)}
    split = split_groups(groups, val, test, seed, "code")
    assert split.keys() == groups.keys()
    assert set(split.values()) == {"train", "val", "test"}


def test_split_depends_on_names_and_seed_alone() -> None:
    sizes = {str(i): 100 + i for i in range(100)}
    turned = dict(reversed(sizes.items()))
    assert split_groups(sizes, 0.1, 0.1, 1, "code") == split_groups(turned, 0.1, 0.1, 1, "code")
    assert split_groups(sizes, 0.1, 0.1, 1, "code") != split_groups(sizes, 0.1, 0.1, 2, "code")


def test_too_few_groups() -> None:
    with pytest.raises(UserError, match=r"data\.code: 2 group\(s\)"):
        split_groups({"a": 1, "b": 1}, 0.1, 0.1, 0, "code")


@pytest.mark.parametrize(("val", "test"), [(0.0, 0.1), (0.1, -0.1), (0.6, 0.4)])
def test_impossible_fractions(val: float, test: float) -> None:
    with pytest.raises(UserError, match=r"data\.val_fraction=.*data\.test_fraction="):
        split_groups({"a": 1, "b": 1, "c": 1}, val, test, 0, "code")
