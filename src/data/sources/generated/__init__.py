"""Text made by our own grammar: little stories and bash scripts whose exact entropy is known.

What it is: an endless, reproducible corpus for tests, demonstrations and controlled comparisons. Every document has
facts that are stated early and needed late (who owns what, how long a journey is, which options a script takes), a line
to two thousand tokens later, so a model that remembers far back predicts better. Because the grammar is unambiguous the
bits of each document are exact: no model can do better on average than the corpus's bits per byte. `parser.py` finds
both in a text: the bits of each character, and what is said again how far from where it was said before.

What it is not: natural text. Its world is small and its sentences come from templates, so good results here say
little about real stories or real code, and it is no substitute for them. Its entropy (about 0.24 bits per byte for
stories and 0.12 for scripts) is several times lower than that of natural text.
"""

import hashlib
import random
from collections.abc import Callable, Iterator

from src.data.sources.generated.grammar import GeneratedDocument, Writer
from src.data.sources.generated.scripts import write_script
from src.data.sources.generated.stories import write_story

__all__ = ["GeneratedDocument", "generate_scripts", "generate_stories"]


def generate_stories(seed: int, max_bytes: int) -> Iterator[GeneratedDocument]:
    """Yield stories until at least `max_bytes` of UTF-8 text have been yielded; no newline at a story's end."""
    return _generate(write_story, "story", seed, max_bytes)


def generate_scripts(seed: int, max_bytes: int) -> Iterator[GeneratedDocument]:
    """Yield bash scripts until at least `max_bytes` of UTF-8 text have been yielded; each ends with a newline."""
    return _generate(write_script, "script", seed, max_bytes)


def _generate(compose: Callable[[Writer], str], corpus: str, seed: int, max_bytes: int) -> Iterator[GeneratedDocument]:
    n_bytes = index = 0
    while n_bytes < max_bytes:
        writer = Writer(_random_stream(corpus, seed, index))
        kind = compose(writer)
        document = GeneratedDocument(writer.text, writer.bits, kind)
        yield document
        n_bytes += len(document.text.encode())
        index += 1


def _random_stream(corpus: str, seed: int, index: int) -> Callable[[], float]:
    """Return a stream that depends on these three alone: Python promises `random()` to stay the same per integer."""
    digest = hashlib.sha256(f"{corpus} {seed} {index}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big")).random
