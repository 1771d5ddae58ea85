"""Text from a probabilistic grammar: short stories and bash scripts whose exact entropy is known.

It is an unlimited, reproducible corpus for tests, demonstrations and controlled comparisons. Every document has facts
that are stated early and needed later (owners, the length of a journey, the options of a script), from one line to two
thousand tokens apart, so a model with a longer memory predicts better. The grammar is unambiguous, so the bits of each
document are exact, and no model can be better on average than the corpus's bits per byte. `parser.py` recovers the bits
of each character, and the distance of each repeated name to its last mention.

It is not natural text. Its vocabulary is small and its sentences come from templates, so good results here say little
about real stories or real code. Its entropy (about 0.24 bits per byte for stories and 0.12 for scripts) is several
times lower than that of natural text.
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
    """Return a random stream of corpus, seed and index; Python guarantees a stable `random()` for integer seeds."""
    digest = hashlib.sha256(f"{corpus} {seed} {index}".encode()).digest()
    return random.Random(int.from_bytes(digest, "big")).random
