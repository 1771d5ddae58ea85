"""Plots as sequences of scenes: prose, a choice of prose, or a function.

Prose is a template in which line breaks are spaces, scenes are joined by a space, and `¶` starts a paragraph. `vary`
replaces common phrases by draws, so that short plots give varied text.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from src.data.sources.generated.grammar import TemplateWriter

Scene = str | tuple[str, ...] | Callable[[TemplateWriter], None]
"""A tuple is a draw among its members."""


@dataclass(frozen=True)
class Plot:
    """The opening sentences, which identify the plot, and the scenes after them."""

    openings: tuple[str, ...]
    scenes: tuple[Scene, ...]


def write_scenes(story: TemplateWriter, *scenes: Scene) -> None:
    """Write scenes, each after a space or its own paragraph break."""
    for scene in scenes:
        if isinstance(scene, str):
            template = vary(prose(scene))
            story.write_template(template if template.startswith("\n") else " " + template)
        elif isinstance(scene, tuple):
            story.writer.write(" ")
            story.pick(*(vary_tail(prose(option)) for option in scene))
        else:
            scene(story)


@cache
def prose(text: str) -> str:
    """Remove the line breaks of a template."""
    text = re.sub(r"(?<=[|«])\n\s*", "", text.strip())
    return re.sub(r"\s*¶\s*", "\n\n", re.sub(r"\s*\n\s*", " ", text))


_PHRASES = {
    "Then": "Then|After that,|And then|A moment later,|Now",
    "Soon": "Soon|Before long,|In no time,|After a while,",
    "At last": "At last|In the end,|After a long time,|When all hope was gone,",
    "began to": "began to|started to",
    "nobody": "nobody|no one",
    "Nobody": "Nobody|No one|Not a soul",
    "everybody": "everybody|everyone",
    "Everybody": "Everybody|Everyone",
    "because": "because|since|as",
    "went to": "went to|walked to|set off for|hurried to",
    "ran to": "ran to|hurried to|rushed to",
    "small": "small|little|tiny|wee",
    "big": "big|large|huge|great",
    "every day": "every day|each day|day after day|all week",
    "looked around": "looked around|turned around|looked about",
    "found": "found|discovered|spotted",
    "laughed": "laughed|giggled|chuckled|burst out laughing",
    "whispered": "whispered|murmured|breathed",
    "wanted to": "wanted to|wished to|hoped to|meant to",
    "at once": "at once|right away|without delay",
    "a basket": "a basket|an old basket|a light basket|a straw basket|a deep basket",
    "nodded": "nodded|agreed|said yes",
    "hurt": "hurt|sore|lame",
    "must": "must|have to|should",
    "presents": "presents|gifts|little presents",
}
"""Phrases that are replaced by a draw among alternatives that fit everywhere in the plots."""

_MARK = re.compile(r"(«(?:[^«»]|«[^«»]*»)*»)")
_ALTERNATIVES = re.compile(r"(«(?:[^«»|]|«[^«»]*»)*\|(?:[^«»]|«[^«»]*»)*»)")
_PHRASE = re.compile(r"\b(" + "|".join(sorted(_PHRASES, key=len, reverse=True)) + r")\b")
_ASIDES = "|softly|quietly|with a smile|after a moment|at last|in a low voice|kindly|firmly|very slowly|out loud|politely|gently"
_VERBS = re.compile(r'(?<=,") said (?=«)')
_SAID = re.compile(r'" (said|asked) («[a-z_]+»)\.')
_STARTS = ("", "So ", "And ", "Now ", "By and by, ", "That day, ", "Well, ")
_NEW_SENTENCE = re.compile(r"(?<=[a-z»][.!] )«(hero|friend|\^he|He)» ")


@cache
def vary(template: str) -> str:
    """Add draws to a template: alternatives for common phrases, for verbs of speech, and for starts of sentences."""
    parts = _ALTERNATIVES.split(template)
    verbs = " «said|replied|remarked|whispered» "
    parts[::2] = [_NEW_SENTENCE.sub(_add_start, _VERBS.sub(verbs, _SAID.sub(_add_aside, part))) for part in parts[::2]]
    parts = _MARK.split("".join(parts))
    parts[::2] = [_PHRASE.sub(lambda match: f"«{_PHRASES[match[1]]}»", part) for part in parts[::2]]
    return "".join(parts)


@cache
def vary_tail(template: str) -> str:
    """Vary the part of a template after its first draw; the part before it is unchanged."""
    marks = [mark for mark in _MARK.finditer(template) if "|" in mark[0] or "=" in mark[0]]
    if not marks:
        return template
    return template[: marks[0].end()] + vary(template[marks[0].end() :])


def _add_aside(match: re.Match[str]) -> str:
    verb, speaker = match[1], match[2]
    return f'" {verb} {speaker}«' + "|".join(f" {aside}." if aside else "." for aside in _ASIDES.split("|")) + "»"


def _add_start(match: re.Match[str]) -> str:
    subject = {"^he": "he", "He": "he"}.get(match[1], match[1])
    capital = f"«^{subject}»"
    return "«" + "|".join(f"{start}«{subject}»" if start else capital for start in _STARTS) + "» "
