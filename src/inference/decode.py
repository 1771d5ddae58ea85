"""Draw tokens one by one, from a cache that holds just what each block needs of the past."""

from collections.abc import Iterator

import torch
from torch import Tensor

from src.config import SamplingConfig
from src.model.language_model import LanguageModel


def choose(logits: Tensor, sampling: SamplingConfig, generator: torch.Generator) -> int:
    """Draw a token from logits (V,): the most probable at temperature 0, else among the top k."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    logits = logits.float().cpu()  # drawn on the CPU: the same seed, the same text anywhere
    logits = (logits - logits.max()) / sampling.temperature
    if 0 < sampling.top_k < len(logits):
        threshold = logits.topk(sampling.top_k).values[-1]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    return int(torch.multinomial(logits.softmax(dim=0), 1, generator=generator))


@torch.inference_mode()
def generate(
    model: LanguageModel, prompt: list[int], sampling: SamplingConfig, *, stop: int | None = None, cache: bool = True
) -> Iterator[int]:
    """Yield up to `max_new_tokens` tokens after the prompt (at least one token), ending before the token `stop`.

    Without the cache, the whole sequence is computed anew each time: slower, the same tokens.
    """
    assert prompt, "the prompt needs a token; the end-of-text token begins a document"
    model.eval()
    place = model.embedding.weight.device
    generator = torch.Generator().manual_seed(sampling.seed)
    state = model.make_cache(1, len(prompt) + sampling.max_new_tokens) if cache else None
    tokens = list(prompt)
    fresh = tokens
    for _ in range(sampling.max_new_tokens):
        hidden = model(torch.tensor([fresh], device=place), state).hidden
        token = choose(model.head(hidden[0, -1]), sampling, generator)
        if token == stop:
            return
        yield token
        tokens.append(token)
        fresh = [token] if cache else tokens
