"""Items of our tasks of lm-eval: different, fixed by their seeds, and right where they say so."""

import subprocess
from collections.abc import Callable
from random import Random

import pytest

from src.evaluation.lm_eval_tasks.scripts import idiom_items, syntax_items
from src.evaluation.lm_eval_tasks.stories import grammar_items
from src.evaluation.lm_eval_tasks.templates import Pair, fill, minimal_pairs
from src.evaluation.script_checks import bash_version
from src.runtime.records import content_sha256

BUILDERS = (syntax_items, idiom_items, grammar_items)
HASHES = ["925f955163ae", "5e350134c040", "74a02541471f"]


@pytest.mark.parametrize("build", BUILDERS)
def test_items_are_filled_different_and_the_same_each_time(build: Callable[[], list[dict[str, str]]]) -> None:
    items = build()
    assert items == build() and len(items) == 300
    assert len({tuple(item.values()) for item in items}) == 300
    for item in items:
        texts = [text for name, text in item.items() if name not in ("kind", "context")]
        assert len(set(texts)) == len(texts), "a wrong text equals the right one"
        assert not any(mark in " ".join(item.values()) for mark in ("<?>", "<var", "<file", "<thing", "<animal"))


def test_a_change_of_the_items_needs_a_new_version_of_the_task() -> None:
    """Results of other items under the same version would be compared; `metadata.version` is in the YAML files."""
    assert [content_sha256(build())[:12] for build in BUILDERS] == HASHES


def is_valid(script: str) -> bool:
    return subprocess.run(["bash", "-n"], input=script.encode(), capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(bash_version() is None, reason="needs bash")
def test_bash_accepts_each_good_script_and_refuses_each_bad_one() -> None:
    for item in syntax_items():
        assert is_valid(item["good"]) and not is_valid(item["bad"]), item


@pytest.mark.skipif(bash_version() is None, reason="needs bash")
def test_bash_accepts_whole_idioms() -> None:
    """Those that are whole scripts: the others end within a loop, a function or a word."""
    whole = {"options", "trap", "call", "end of loop", "end of test", "end of case", "permission", "find"}
    checked = [item for item in idiom_items() if item["kind"] in whole]
    assert len(checked) > 100
    for item in checked:
        assert is_valid(item["context"] + item["right"]), item


def test_a_slot_is_the_same_word_everywhere_and_a_numbered_one_another() -> None:
    for seed in range(20):
        one, two = fill(["<word> <word>", "<word2>"], {"word": ("a", "b")}, Random(seed))
        assert one in ("a a", "b b") and two != one[0]


def test_too_few_words_are_reported() -> None:
    with pytest.raises(AssertionError, match="too few words for 3 items"):
        minimal_pairs([Pair("x", "<word> <?>", "is", "are")], {"word": ("a", "b")}, 3, seed=0)
