"""Decoding: the cache does not change the tokens, and sampling follows its settings."""

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


def confident_model(architecture: str, recipe: str = "modern") -> LanguageModel:
    """Build a model with larger weights, mainly of the head, so that its predictions are not uniform."""
    model = small_model(architecture, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and not name.endswith("conv_weight"):
                parameter.mul_(3)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("length", [1, 20])
def test_cache_does_not_change_tokens(architecture: str, recipe: str, length: int) -> None:
    """Window and chunk are 16 tokens; the text is longer."""
    model = confident_model(architecture, recipe)
    cached = list(generate(model, PROMPT[:length], GREEDY))
    assert cached == list(generate(model, PROMPT[:length], GREEDY, cache=False))
    assert len(cached) == 30 and len(set(cached)) > 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_greedy_tokens_are_the_most_probable(architecture: str) -> None:
    model = confident_model(architecture)
    text = PROMPT + list(generate(model, PROMPT, GREEDY))
    with torch.no_grad():
        best = model.logits(torch.tensor([text])).argmax(dim=-1)[0].tolist()
    assert best[len(PROMPT) - 1 : -1] == text[len(PROMPT) :]


def test_top_k_1_is_greedy() -> None:
    model = confident_model("hybrid")
    expected = list(generate(model, PROMPT, GREEDY))
    assert list(generate(model, PROMPT, SamplingConfig(max_new_tokens=30, temperature=0.8, top_k=1))) == expected


def test_seed_reproduces_its_text() -> None:
    model, sampling = confident_model("mamba"), SamplingConfig(max_new_tokens=30, temperature=1.5, seed=3)
    first = list(generate(model, PROMPT, sampling))
    torch.rand(10)  # the global generator is not used
    assert list(generate(model, PROMPT, sampling)) == first
    assert list(generate(model, PROMPT, sampling, cache=False)) == first
    assert list(generate(model, PROMPT, replace(sampling, seed=4))) != first


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_equals_single_texts(architecture: str) -> None:
    model, sampling = confident_model(architecture), SamplingConfig(max_new_tokens=40, temperature=1.5, seed=3)
    expected = [list(generate(model, PROMPT, replace(sampling, seed=3 + i))) for i in range(4)]
    assert generate_batch(model, PROMPT, sampling, 4) == expected
    stop = expected[1][5]
    assert generate_batch(model, PROMPT, sampling, 4, stop=stop) == [
        list(generate(model, PROMPT, replace(sampling, seed=3 + i), stop=stop)) for i in range(4)
    ]


def test_batch_stops_when_all_texts_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    model, steps = confident_model("dense"), list[int]()
    head = model.head.forward
    monkeypatch.setattr(model.head, "forward", lambda x: steps.append(len(x)) or head(x))
    stop = next(generate(model, PROMPT, GREEDY))
    steps.clear()
    assert generate_batch(model, PROMPT, replace(GREEDY, max_new_tokens=200), 3, stop=stop) == [[], [], []]
    assert len(steps) == CHECK_ENDED_EVERY and set(steps) == {3}


def test_zero_new_tokens() -> None:
    assert generate_batch(confident_model("mamba"), PROMPT, replace(GREEDY, max_new_tokens=0), 2) == [[], []]


def test_text_ends_before_the_stop_token() -> None:
    model = confident_model("dense")
    tokens = list(generate(model, PROMPT, GREEDY))
    stop = tokens[10]
    assert list(generate(model, PROMPT, GREEDY, stop=stop)) == tokens[: tokens.index(stop)]
    assert list(generate(model, PROMPT, GREEDY, stop=tokens[0])) == []


def test_tokens_are_streamed() -> None:
    model = confident_model("dense")
    stream = generate(model, PROMPT, replace(GREEDY, max_new_tokens=10**4))
    assert next(stream) == next(generate(model, PROMPT, GREEDY))


@pytest.mark.parametrize("architecture", ["dense", "hybrid", "mamba"])
def test_first_token_does_not_wait_for_the_token_limit(architecture: str) -> None:
    model = confident_model(architecture)
    stream = generate(model, PROMPT, replace(GREEDY, max_new_tokens=10**12))
    assert [next(stream) for _ in range(30)] == list(generate(model, PROMPT, GREEDY))


def test_growing_cache_does_not_change_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = SamplingConfig(max_new_tokens=60, temperature=1.5, seed=3)
    expected = {name: list(generate(confident_model(name), PROMPT, sampling)) for name in ("dense", "hybrid")}
    monkeypatch.setattr(attention, "INITIAL_CAPACITY", 1)
    monkeypatch.setattr(generation, "RANDOM_CHUNK", 7)
    assert {name: list(generate(confident_model(name), PROMPT, sampling)) for name in expected} == expected


def test_all_learned_positions_can_be_used() -> None:
    model = small_model("dense", "classic")
    n_tokens = model.spec.max_seq_len - len(PROMPT)
    assert len(list(generate(model, PROMPT, replace(GREEDY, max_new_tokens=n_tokens)))) == n_tokens


def draws(logits: list[float], n: int = 4000, **settings: float) -> list[float]:
    """Return the relative frequency of each token."""
    sampling = SamplingConfig(**settings)  # pyright: ignore[reportArgumentType]
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    drawn = sample_token(torch.tensor(logits).expand(n, -1), sampling, uniform)
    return (drawn.bincount(minlength=len(logits)) / n).tolist()


def test_sampling_frequencies_equal_probabilities() -> None:
    logits = torch.tensor([0.5, 0.3, 0.2]).log().tolist()
    assert draws(logits, temperature=1.0, top_k=0) == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert draws(logits, temperature=0.5, top_k=0) == pytest.approx([25 / 38, 9 / 38, 4 / 38], abs=0.03)
    assert draws(logits, temperature=1.0, top_k=2) == pytest.approx([5 / 8, 3 / 8, 0], abs=0.03)
    assert draws(logits, n=50, temperature=0.0, top_k=0) == [1, 0, 0]


@pytest.mark.parametrize("top_k", [0, VOCAB_SIZE, VOCAB_SIZE + 1, 10**9])
def test_top_k_above_the_vocabulary_is_no_limit(top_k: int) -> None:
    model = confident_model("dense")
    texts = [
        list(generate(model, PROMPT, SamplingConfig(max_new_tokens=20, temperature=1.0, top_k=k))) for k in (0, top_k)
    ]
    assert texts[0] == texts[1]


def test_lower_temperature_is_more_greedy() -> None:
    shares = [draws([2.0, 1.0, 0.0], n=1000, temperature=t, top_k=0)[0] for t in (0.2, 0.5, 1.0, 2.0)]
    assert all(colder > warmer for colder, warmer in pairwise(shares))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30])
def test_temperature_near_zero_is_greedy(temperature: float) -> None:
    assert draws([2.0, 3.0, -1.0], n=5, temperature=temperature, top_k=2) == [0, 1, 0]
