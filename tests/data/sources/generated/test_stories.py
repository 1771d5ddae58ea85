"""Stories: reproducible, varied, and consistent from the first sentence to the last."""

import hashlib
import os
import re
import subprocess
import sys
from itertools import islice

import pytest

from src.config.schema import ROOT
from src.data.dataset import GENERATED_TEXT_HASH
from src.data.sources.generated import GeneratedDocument, generate_scripts, generate_stories
from src.data.sources.generated.stories import PLOTS
from src.data.sources.generated.stories.long_journeys import N_DAYS, ORDINALS
from src.data.sources.generated.stories.plots_journeys import COUNTS


@pytest.fixture(scope="module")
def stories() -> list[GeneratedDocument]:
    return list(generate_stories(seed=5, max_bytes=500_000))


def of_kind(stories: list[GeneratedDocument], kind: str) -> list[str]:
    found = [story.text for story in stories if story.kind == kind]
    assert len(found) > 5
    return found


def search(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    assert match, f"{pattern}\n{text}"
    return match


def test_the_same_seed_gives_the_same_stories_and_another_seed_others() -> None:
    first, again, other = (list(generate_stories(seed, 20_000)) for seed in (1, 1, 2))
    assert first == again
    assert not {story.text for story in first} & {story.text for story in other}


def test_a_longer_corpus_begins_with_the_shorter_one() -> None:
    short = list(generate_stories(3, 5_000))
    assert short == list(islice(generate_stories(3, 50_000), len(short)))


def test_stops_with_the_story_that_reaches_the_size(stories: list[GeneratedDocument]) -> None:
    sizes = [len(story.text.encode()) for story in stories]
    assert sum(sizes) >= 500_000 > sum(sizes[:-1])
    assert not list(generate_stories(0, 0))


def test_stories_are_varied(stories: list[GeneratedDocument]) -> None:
    texts = [story.text for story in stories]
    words = set(re.findall(r"[a-z]+", " ".join(texts).lower()))
    assert len(set(texts)) == len({text.split("\n")[0] for text in texts}) == len(texts)
    assert {story.kind for story in stories} == set(PLOTS)
    assert len(PLOTS) >= 12
    assert 800 < len(words) < 2000


def test_entropy_is_in_the_expected_range(stories: list[GeneratedDocument]) -> None:
    rate = sum(story.bits for story in stories) / sum(len(story.text.encode()) for story in stories)
    assert 0.1 < rate < 1.0
    assert min(story.bits for story in stories) > 60


def test_the_prose_is_well_formed(stories: list[GeneratedDocument]) -> None:
    for story in stories:
        assert not re.search(r"[«»|¶{}]|  | [.,!?]|\ba [aeio]|\n\n\n|[.!?][A-Za-z]|,,|\.\.", story.text), story.text
        assert story.text[-1] in '.!"', story.text
        assert story.text == story.text.strip()
        assert story.text.count('"') % 2 == 0, story.text


def test_pronouns_of_the_hero_agree(stories: list[GeneratedDocument]) -> None:
    for story in stories:
        kid = search(r"\b(girl|boy)\b", story.text)[1]
        first = search(r"\b(She|He|she|he)\b|only", story.text)[0].lower()
        assert first in (("she", "only") if kid == "girl" else ("he", "only")), story.text


def test_promised_gifts_are_brought_on_the_promised_day(stories: list[GeneratedDocument]) -> None:
    for text in of_kind(stories, "promise"):
        promise = search(r'"I will bring you (.+?) and a (.+?) on (\w+day)', text)
        kept = search(r"They ate the (.+?), and \w+ held the (.+?) (?:with|very|up)", text)
        assert kept.groups() == promise.groups()[:2]
        assert f"When {promise[3]} came" in text
        assert f"And on {promise[3]}, just as you promised!" in text


def test_the_lost_toy_is_found_where_it_was_put_down(stories: list[GeneratedDocument]) -> None:
    for text in of_kind(stories, "lost toy"):
        left = search(r"put the (.+?) down (.+?) and", text)
        assert f"ran to look {left[2]}" in text.replace("hurried to", "ran to").replace("rushed to", "ran to")
        assert re.search(rf"I have lost my \w+ {left[1]}!", text)


def test_counts_of_fruit_are_consistent(stories: list[GeneratedDocument]) -> None:
    numbers: list[str] = [*"no one two three four five six seven eight nine ten eleven twelve".split()]
    for text in of_kind(stories, "counting"):
        total = search(r"there were (\w+) of them", text)[1]
        first = search(r"You can have (\w+) of my", text)[1]
        second = search(r"gave (?:her|him) (\w+) more", text)[1]
        left = search(r"counted again: (\w+) ", text)[1]
        assert numbers.index(left) == numbers.index(total) - numbers.index(first) - numbers.index(second)


def test_the_ending_repeats_the_fact_of_the_opening(stories: list[GeneratedDocument]) -> None:
    """The last paragraph repeats the fact of the opening."""
    facts = (
        r" loved ([\w ]+?) (?:more than|best|so much)",
        r"wished for a ([\w -]+?)(?: about|,)",
        r" (?:named|called) (\w+), and ",
        r"was only (\w+) years",
        r"It was a (\w+day),",
    )
    n_recalled = 0
    for story in stories:
        opening, *_, ending = story.text.split("\n\n")
        found = [match[1] for pattern in facts if (match := re.search(pattern, opening))]
        n_recalled += len(found)
        assert all(fact in ending for fact in found), story.text
    assert n_recalled > len(stories) / 2


def test_gifts_keep_their_recipients(stories: list[GeneratedDocument]) -> None:
    asked = 0
    for story in stories:
        if question := re.search(r'"Who gets the ([\w ]+)\?" "(\w+),"', story.text):
            asked += 1
            assert re.search(rf"[Tt]he {question[1]} (is )?for {question[2]}\b", story.text), story.text
    assert asked > 10


def test_parcels_reach_their_recipients(stories: list[GeneratedDocument]) -> None:
    for text in of_kind(stories, "parcels"):
        listed = search(r"There were (\w+) parcels: (.+?)\. ", text)
        expected = set(re.findall(r"a ([\w ]+?) for (\w+)", listed[2]))
        given = re.findall(r"\n\n(\w+) (?:was at|came to|stood at).+?gave h\w+ the ([\w ]+?)\. ", text)
        assert {(thing, person) for person, thing in given} == expected
        assert len(given) == 3 + COUNTS.index(listed[1])


def test_a_journey_has_the_announced_number_of_days(stories: list[GeneratedDocument]) -> None:
    lengths = []
    for story in stories:
        if announced := re.search(r"for a journey of (\w+) days\.", story.text):
            assert re.findall(r"On the (\w+) day, ", story.text) == list(ORDINALS[: N_DAYS[announced[1]]])
            assert f"Then the {announced[1]} days were over" in story.text
            lengths.append(len(story.text))
    assert len(stories) / 9 < len(lengths) < len(stories) / 4
    assert max(lengths) > 6000


def test_the_hash_of_generated_text_is_that_of_the_text() -> None:
    """With a stale hash, data of another generated text would be found for these settings."""
    digest = hashlib.sha256()
    for generate in (generate_stories, generate_scripts):
        for document in generate(0, 300_000):
            digest.update(document.text.encode())
    assert digest.hexdigest()[:16] == GENERATED_TEXT_HASH


def test_text_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "import hashlib; from src.data.sources.generated import generate_scripts, generate_stories; "
        "texts = [d.text for f in (generate_stories, generate_scripts) for d in f(4, 20_000)]; "
        "print(hashlib.sha256(''.join(texts).encode()).hexdigest())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
