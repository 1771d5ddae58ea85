"""Sample tokens one by one, with a cache of the state that each block needs.

Random numbers are drawn in advance on the CPU, one per token, and moved to the device. So a seed gives the same text on
every device (up to rounding), alone or in a batch, and only reading tokens and MoE routing synchronize with the device.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from src.config.schema import SamplingConfig
from src.model.language_model import LanguageModel

CHECK_ENDED_EVERY = 16
"""Tokens between checks whether all texts of a batch have ended, each of which synchronizes with the device."""

RANDOM_CHUNK = 1024
"""Random numbers drawn at a time."""


def sample_token(logits: Tensor, sampling: SamplingConfig, uniform: Tensor) -> Tensor:
    """Sample a token from each row of logits (B, V) with one uniform number in [0, 1) each: (B, V), (B,) -> (B,).

    At temperature 0 the most probable token; else from the top k, by inverting the cumulative distribution.
    """
    if sampling.temperature == 0:
        return logits.max(dim=-1).indices  # several times as fast as argmax on a CPU, with the same ties
    logits, tokens = logits.float(), None
    if 0 < sampling.top_k < logits.shape[-1]:
        logits, tokens = logits.topk(sampling.top_k)
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / sampling.temperature
    passed = logits.softmax(dim=-1).cumsum(dim=-1) <= uniform[:, None]
    sampled = passed.sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)  # a rounded sum may end below 1
    return (sampled if tokens is None else tokens.gather(-1, sampled))[:, 0]


def generate(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, *, stop: int | None = None, cache: bool = True
) -> Iterator[int]:
    """Yield up to `max_new_tokens` tokens after the prompt (at least one token), ending before the token `stop`.

    Without the cache, the whole sequence is recomputed for each token: slower, the same tokens.
    """
    for drawn in _sample_steps(model, prompt, sampling, 1, cache):
        token = int(drawn)
        if token == stop:
            return
        yield token


def generate_batch(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, n: int, *, stop: int | None = None
) -> list[list[int]]:
    """Continue the prompt n times in one batch; text i is the one that `generate` gives for `sampling.seed + i`."""
    steps: list[Tensor] = []
    ended = torch.zeros(n, dtype=torch.bool, device=model.embedding.weight.device)
    for drawn in _sample_steps(model, prompt, sampling, n):
        steps.append(drawn)
        ended |= drawn == (-1 if stop is None else stop)
        if len(steps) % CHECK_ENDED_EVERY == 0 and ended.all():
            break
    texts = torch.stack(steps, dim=1).tolist() if steps else [[]] * n
    return [text[: text.index(stop)] if stop in text else text for text in texts]


@torch.inference_mode()
def _sample_steps(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, n: int, cache: bool = True
) -> Iterator[Tensor]:
    """Yield the next token of each of n texts, (n,), `max_new_tokens` times."""
    assert prompt, "the prompt needs a token; use the end-of-text token to begin a document"
    model.eval()
    device, length = model.embedding.weight.device, sampling.max_new_tokens
    generators = [torch.Generator().manual_seed(sampling.seed + i) for i in range(n)]
    state = model.make_cache(n, len(prompt) + length) if cache else None
    tokens = fresh = torch.tensor([prompt], device=device).expand(n, -1)
    for column in _uniform_numbers(generators, length, device):
        hidden = model(fresh, state).hidden
        drawn = sample_token(model.head(hidden[:, -1]), sampling, column)
        yield drawn
        if cache:
            fresh = drawn[:, None]
        else:
            tokens = fresh = torch.cat([tokens, drawn[:, None]], dim=1)


def _uniform_numbers(generators: list[torch.Generator], length: int, device: torch.device) -> Iterator[Tensor]:
    """Yield a number in [0, 1) for each generator, (n,), `length` times; drawn and moved in chunks."""
    for begin in range(0, length, RANDOM_CHUNK):
        n = min(RANDOM_CHUNK, length - begin)
        yield from torch.stack([torch.rand(n, generator=each) for each in generators]).to(device).unbind(dim=1)
