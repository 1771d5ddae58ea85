"""Reference implementation of the parser: every derivation of a grammar or of a text by exhaustive search."""

from collections.abc import Callable, Iterator, Sequence

from src.data.sources.generated.grammar import Odds, Writer

Compose = Callable[[Writer], str]


class DeadEnd(Exception):
    """The written text is not a prefix of the target."""


class Replay(Writer):
    """Repeats the given decisions, then takes the first possible ones, and records the other possible ones.

    With a target, an option is possible if the target continues with it; without one, every option is.
    """

    def __init__(self, decisions: Sequence[int], target: str | None = None):
        super().__init__(random=lambda: 0.0)
        self.decisions = list(decisions)
        self.target = target
        self.position = self.depth = 0
        self.branches: list[list[int]] = []

    def write(self, text: str) -> None:
        if self.target is not None and not self.target.startswith(text, self.position):
            raise DeadEnd
        self.position += len(text)
        super().write(text)

    def decide(self, options: Sequence[str], odds: Odds, follow: str) -> int:
        assert len(options) == len(odds.bits) == len(odds.cumulative) + 1
        if self.depth == len(self.decisions):
            target, position = self.target, self.position
            texts = [option + follow for option in options]
            possible = [i for i, text in enumerate(texts) if target is None or target.startswith(text, position)]
            if not possible:
                raise DeadEnd
            self.branches += [[*self.decisions, other] for other in possible[1:]]
            self.decisions.append(possible[0])
        self.depth += 1
        return self.decisions[self.depth - 1]


def derivations(compose: Compose, target: str | None = None) -> Iterator[tuple[str, float]]:
    """Yield text and bits of every derivation (of the target, if given), by exhaustive depth-first search."""
    stack: list[list[int]] = [[]]
    while stack:
        writer = Replay(stack.pop(), target)
        try:
            compose(writer)
        except DeadEnd:
            pass
        else:
            if target is None or writer.text == target:
                yield writer.text, writer.bits
        stack += writer.branches
