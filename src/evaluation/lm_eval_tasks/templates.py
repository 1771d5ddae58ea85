"""Fill templates with words by a seed: the same items on every machine.

`<slot>` in a template stands for a word of that list; the same slot is the same word everywhere in an item, and
`<slot2>` is another word of the list `slot`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple, TypeVar

Words = Mapping[str, Sequence[str]]
SLOT = re.compile(r"<([a-z]+)([2-4]?)>")
MAX_TRIES = 1000
"""Draws of words for one item before a template counts as used up."""
Item = TypeVar("Item")


class Pair(NamedTuple):
    """A template with `<?>` where the right and the wrong text differ."""

    kind: str
    text: str
    right: str
    wrong: str


class Choice(NamedTuple):
    """A context, its right continuation, and wrong ones."""

    kind: str
    context: str
    right: str
    wrong: tuple[str, ...]


def fill(parts: Sequence[str], words: Words, random: Random) -> list[str]:
    """Fill the slots of all parts with the same draw of words."""
    bound: dict[str, str] = {}
    for name, number in SLOT.findall(" ".join(parts)):
        if name + number not in bound:
            used = {value for slot, value in bound.items() if slot.rstrip("234") == name}
            bound[name + number] = draw([word for word in words[name] if word not in used], random)
    return [SLOT.sub(lambda match: bound[match[1] + match[2]], part) for part in parts]


def draw(options: Sequence[str], random: Random) -> str:
    """Draw an option. Only `Random.random` is promised to give the same numbers in every version of Python."""
    return options[int(random.random() * len(options))]


def generate(
    templates: Sequence[Item], build: Callable[[Item, Random], dict[str, str]], n: int, seed: int
) -> Iterator[dict[str, str]]:
    """Yield n different items, from each template in turn."""
    random, seen = Random(seed), set[tuple[str, ...]]()
    for i in range(n):
        for _ in range(MAX_TRIES):
            item = build(templates[i % len(templates)], random)
            if (content := tuple(item.values())) not in seen:
                break
        else:
            raise AssertionError(f"too few words for {n} items of {templates[i % len(templates)]}")
        seen.add(content)
        yield item


def minimal_pairs(templates: Sequence[Pair], words: Words, n: int, seed: int) -> list[dict[str, str]]:
    """Return n items with `kind`, `good` and `bad`, which differ in one place."""

    def build(pair: Pair, random: Random) -> dict[str, str]:
        text, right, wrong = fill([pair.text, pair.right, pair.wrong], words, random)
        return {"kind": pair.kind, "good": text.replace("<?>", right), "bad": text.replace("<?>", wrong)}

    return list(generate(templates, build, n, seed))


def choices(templates: Sequence[Choice], words: Words, n: int, seed: int) -> list[dict[str, str]]:
    """Return n items with `kind`, `context`, `right`, and `wrong1` to `wrong3`."""

    def build(choice: Choice, random: Random) -> dict[str, str]:
        context, right, *wrong = fill([choice.context, choice.right, *choice.wrong], words, random)
        numbered = {f"wrong{i}": text for i, text in enumerate(wrong, 1)}
        return {"kind": choice.kind, "context": context, "right": right, **numbered}

    return list(generate(templates, build, n, seed))
