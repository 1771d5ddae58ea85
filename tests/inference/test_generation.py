"""Decoding: the cache changes speed alone, and drawing does what its settings say."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from src.config.schema import SamplingConfig
from src.inference import generation
from src.inference.generation import CHECK_ENDED_EVERY, generate, generate_batch, sample_token
from src.model.blocks.attention import module as attention
from src.model.language_model import LanguageModel
from tests.contract.small import ARCHITECTURES, RECIPES, VOCAB_SIZE, random_tokens, small_model

GREEDY = SamplingConfig(max_new_tokens=30, temperature=0.0)
PROMPT = random_tokens(1, 20, seed=5)[0].tolist()


def sharp(architecture: str, recipe: str = "modern") -> LanguageModel:
    """A model with opinions: all weights of a fresh one, the head's above all, are made larger."""
    model = small_model(architecture, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith("conv_weight"):
                parameter.mul_(3)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("length", [1, 20])
def test_the_cache_changes_no_token(architecture: str, recipe: str, length: int) -> None:
    """The window is 16 and a chunk is 16: both are passed."""
    model = sharp(architecture, recipe)
    cached = list(generate(model, PROMPT[:length], GREEDY))
    assert cached == list(generate(model, PROMPT[:length], GREEDY, cache=False))
    assert len(cached) == 30 and len(set(cached)) > 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_token_is_the_most_probable_after_the_text_so_far(architecture: str) -> None:
    model = sharp(architecture)
    text = PROMPT + list(generate(model, PROMPT, GREEDY))
    with torch.no_grad():
        best = model.logits(torch.tensor([text])).argmax(dim=-1)[0].tolist()
    assert best[len(PROMPT) - 1 : -1] == text[len(PROMPT) :]


def test_one_of_one_is_greedy() -> None:
    model = sharp("hybrid")
    wanted = list(generate(model, PROMPT, GREEDY))
    assert list(generate(model, PROMPT, SamplingConfig(max_new_tokens=30, temperature=0.8, top_k=1))) == wanted


def test_a_seed_repeats_its_text() -> None:
    model, sampling = sharp("mamba"), SamplingConfig(max_new_tokens=30, temperature=1.5, seed=3)
    first = list(generate(model, PROMPT, sampling))
    torch.rand(10)  # the global generator has no part in it
    assert list(generate(model, PROMPT, sampling)) == first
    assert list(generate(model, PROMPT, sampling, cache=False)) == first
    assert list(generate(model, PROMPT, replace(sampling, seed=4))) != first


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_holds_the_texts_of_single_draws(architecture: str) -> None:
    model, sampling = sharp(architecture), SamplingConfig(max_new_tokens=40, temperature=1.5, seed=3)
    wanted = [list(generate(model, PROMPT, replace(sampling, seed=3 + i))) for i in range(4)]
    assert generate_batch(model, PROMPT, sampling, 4) == wanted
    stop = wanted[1][5]
    assert generate_batch(model, PROMPT, sampling, 4, stop=stop) == [
        list(generate(model, PROMPT, replace(sampling, seed=3 + i), stop=stop)) for i in range(4)
    ]


def test_a_batch_whose_texts_have_all_ended_is_not_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model, steps = sharp("dense"), list[int]()
    head = model.head.forward
    monkeypatch.setattr(model.head, "forward", lambda x: steps.append(len(x)) or head(x))
    stop = next(generate(model, PROMPT, GREEDY))
    steps.clear()
    assert generate_batch(model, PROMPT, replace(GREEDY, max_new_tokens=200), 3, stop=stop) == [[], [], []]
    assert len(steps) == CHECK_ENDED_EVERY and set(steps) == {3}


def test_no_token_is_asked_for_and_none_comes() -> None:
    assert generate_batch(sharp("mamba"), PROMPT, replace(GREEDY, max_new_tokens=0), 2) == [[], []]


def test_it_ends_before_the_stop_token() -> None:
    model = sharp("dense")
    tokens = list(generate(model, PROMPT, GREEDY))
    stop = tokens[10]
    assert list(generate(model, PROMPT, GREEDY, stop=stop)) == tokens[: tokens.index(stop)]
    assert list(generate(model, PROMPT, GREEDY, stop=tokens[0])) == []


def test_text_comes_as_it_is_made() -> None:
    model = sharp("dense")
    stream = generate(model, PROMPT, replace(GREEDY, max_new_tokens=10**4))
    assert next(stream) == next(generate(model, PROMPT, GREEDY))


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "mamba"])
def test_the_first_token_comes_at_once_however_many_may_follow(architecture: str) -> None:
    model = sharp(architecture)
    stream = generate(model, PROMPT, replace(GREEDY, max_new_tokens=10**12))
    assert [next(stream) for _ in range(30)] == list(generate(model, PROMPT, GREEDY))


def test_a_cache_that_grows_changes_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SamplingConfig(max_new_tokens=60, temperature=1.5, seed=3)
    wanted = {name: list(generate(sharp(name), PROMPT, sampling)) for name in ("dense", "hybrid")}
    monkeypatch.setattr(attention, "INITIAL_CAPACITY", 1)
    monkeypatch.setattr(generation, "RANDOM_CHUNK", 7)
    assert {name: list(generate(sharp(name), PROMPT, sampling)) for name in wanted} == wanted


def test_learned_positions_serve_to_the_last_row() -> None:
    model = small_model("dense", "classic")
    room = model.spec.max_seq_len - len(PROMPT)
    assert len(list(generate(model, PROMPT, replace(GREEDY, max_new_tokens=room)))) == room


def draws(logits: list[float], n: int = 4000, **settings: float) -> list[float]:
    """Return how often each token is drawn."""
    sampling = SamplingConfig(**settings)  # pyright: ignore[reportArgumentType]
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    drawn = sample_token(torch.tensor(logits).expand(n, -1), sampling, uniform)
    return (drawn.bincount(minlength=len(logits)) / n).tolist()


def test_tokens_are_drawn_by_their_probability() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().tolist()
    assert draws(logits, temperature=1.0, top_k=0) == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert draws(logits, temperature=0.5, top_k=0) == pytest.approx([25 / 38, 9 / 38, 4 / 38], abs=0.03)
    assert draws(logits, temperature=1.0, top_k=2) == pytest.approx([5 / 8, 3 / 8, 0], abs=0.03)
    assert draws(logits, n=50, temperature=0.0, top_k=0) == [1, 0, 0]


@pytest.mark.parametrize("top_k", [0, VOCAB_SIZE, VOCAB_SIZE + 1, 10**9])
def test_more_than_all_is_all(top_k: int) -> None:
    model = sharp("dense")
    texts = [
        list(generate(model, PROMPT, SamplingConfig(max_new_tokens=20, temperature=1.0, top_k=k))) for k in (0, top_k)
    ]
    assert texts[0] == texts[1]


def test_colder_is_surer() -> None:
    shares = [draws([2.0, 1.0, 0.0], n=1000, temperature=t, top_k=0)[0] for t in (0.2, 0.5, 1.0, 2.0)]
    assert all(colder > warmer for colder, warmer in pairwise(shares))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30])
def test_a_temperature_near_zero_is_greedy(temperature: float) -> None:
    assert draws([2.0, 3.0, -1.0], n=5, temperature=temperature, top_k=2) == [0, 1, 0]
