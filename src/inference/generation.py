"""Draw tokens one by one, from a cache that holds just what each block needs of the past.

Chance is drawn beforehand on the CPU, a number a token, and put where the model is. So a seed gives the same text on
any device (up to rounding), alone or in a batch, and nothing waits for the device but who reads the tokens, and MoE,
which asks who is chosen.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from src.config.schema import SamplingConfig
from src.model.language_model import LanguageModel

LOOK_EVERY = 16
"""Tokens after which a batch asks whether all of its texts have ended, where asking means to wait for the device."""

DRAWN_AT_ONCE = 1024
"""Numbers of chance that are drawn before they are needed."""


def choose(logits: Tensor, sampling: SamplingConfig, chance: Tensor) -> Tensor:
    """Draw a token from each row of logits (B, V), by a number of [0, 1) each: (B,), (B,) -> (B,).

    The most probable at temperature 0; else among the top k, by inverting their cumulated probability.
    """
    if sampling.temperature == 0:
        return logits.max(dim=-1).indices  # several times as fast as argmax on a CPU, and the first of equals too
    logits, tokens = logits.float(), None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, tokens = logits.topk(sampling.top_k)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    passed = logits.softmax(dim=-1).cumsum(dim=-1) <= chance[:, None]
    drawn = passed.sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)  # a sum may end below 1 by rounding
    return (drawn if tokens is None else tokens.gather(-1, drawn))[:, 0]


def generate(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, *, stop: int | None = None, cache: bool = True
) -> Iterator[int]:
    """Yield up to `max_new_tokens` tokens after the prompt (at least one token), ending before the token `stop`.

    Without the cache, the whole sequence is computed anew each time: slower, the same tokens.
    """
    for drawn in _draw(model, prompt, sampling, 1, cache):
        token = int(drawn)
        if token == stop:
            return
        yield token


def generate_batch(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, n: int, *, stop: int | None = None
) -> list[list[int]]:
    """Continue the prompt n times at once; text i is the one that `generate` draws with `sampling.seed + i`."""
    steps: list[Tensor] = []
    ended = torch.zeros(n, dtype=torch.bool, device=model.embedding.weight.device)
    for drawn in _draw(model, prompt, sampling, n):
        steps.append(drawn)
        ended |= drawn == (-1 if stop is None else stop)
        if len(steps) % LOOK_EVERY == 0 and ended.all():
            break
    texts = torch.stack(steps, dim=1).tolist() if steps else [[]] * n
    return [text[: text.index(stop)] if stop in text else text for text in texts]


@torch.inference_mode()
def _draw(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, n: int, cache: bool = True
) -> Iterator[Tensor]:
    """Yield the next token of each of n texts, (n,), as often as `max_new_tokens` says."""
    assert prompt, "the prompt needs a token; the end-of-text token begins a document"
    model.eval()
    place, length = model.embedding.weight.device, sampling.max_new_tokens
    generators = [torch.Generator().manual_seed(sampling.seed + i) for i in range(n)]
    state = model.make_cache(n, len(prompt) + length) if cache else None
    tokens = fresh = torch.tensor([prompt], device=place).expand(n, -1)
    for column in _chances(generators, length, place):
        hidden = model(fresh, state).hidden
        drawn = choose(model.head(hidden[:, -1]), sampling, column)
        yield drawn
        if cache:
            fresh = drawn[:, None]
        else:
            tokens = fresh = torch.cat([tokens, drawn[:, None]], dim=1)


def _chances(generators: list[torch.Generator], length: int, place: torch.device) -> Iterator[Tensor]:
    """Yield a number of [0, 1) for each generator, (n,), `length` times; drawn and moved many at a time."""
    for begin in range(0, length, DRAWN_AT_ONCE):
        n = min(DRAWN_AT_ONCE, length - begin)
        yield from torch.stack([torch.rand(n, generator=each) for each in generators]).to(place).unbind(dim=1)
