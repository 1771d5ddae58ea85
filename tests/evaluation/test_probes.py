"""Probes: an ideal induction model predicts all targets and none of the control; an untrained model has no gain."""

import numpy as np
import pytest
import torch

from src.evaluation.probes import PROBES, Probe, TokenSampler, frequent_tokens, measure_probes
from tests.contract.small import CPU, small_model

EOT = 3


def build(name: str, distance: int, n: int = 6) -> Probe:
    return PROBES[name](TokenSampler(np.arange(100, 400), EOT, n), distance)


def induction_answer(row: np.ndarray, place: int) -> int | None:
    """Return the token after the last earlier mention of the token before the target, as induction would predict."""
    before = np.flatnonzero(row[:place] == row[place])
    return int(row[before[-1] + 1]) if len(before) else None


@pytest.mark.parametrize("name", PROBES)
@pytest.mark.parametrize("distance", [16, 64, 512])
def test_mention_determines_every_target_and_the_control_none(name: str, distance: int) -> None:
    probe = build(name, distance)
    assert probe.tokens.shape == probe.control.shape and (probe.tokens[:, 0] == EOT).all()
    for row, control in zip(probe.tokens, probe.control, strict=True):
        for place in probe.targets:
            assert control[place + 1] == row[place + 1]
            if distance <= 64:  # beyond the alphabet, tokens repeat by chance
                assert induction_answer(row, place) == row[place + 1]
                assert induction_answer(control, place) != row[place + 1]


@pytest.mark.parametrize("name", PROBES)
def test_distance_between_mention_and_target(name: str) -> None:
    """In tokens; recall queries in another order, so there it holds on average."""
    probe, found = build(name, 32), []
    for row in probe.tokens:
        for place in probe.targets:
            found.append(place + 1 - np.flatnonzero(row[: place + 1] == row[place + 1])[-1])
    assert np.mean(found) == 32 and (name == "recall" or set(found) == {32})


def test_rows_and_calls_differ_and_are_reproducible() -> None:
    first, second = TokenSampler(np.arange(50), EOT, 4), TokenSampler(np.arange(50), EOT, 4)
    one, two = first(30), first(30)
    assert (one != two).any() and (one == second(30)).all() and (one[0] != one[1]).any()
    assert all(len(set(row)) == 30 for row in one)
    assert (first(120)[:, :50] != first(120)[:, 50:100]).any()


def test_alphabet_has_frequent_tokens_without_end_of_text() -> None:
    tokens = np.array([EOT] * 9 + [7] * 5 + [8] * 6 + [9])
    assert frequent_tokens(tokens, EOT, 2).tolist() == [8, 7]
    assert frequent_tokens(tokens, EOT).tolist() == [8, 7, 9]


class Induction(torch.nn.Module):
    """Predicts the token after the last earlier mention of the current one, which solves all probes."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(vocab_size, vocab_size, bias=False)
        torch.nn.init.eye_(self.head.weight)

    def forward(self, tokens: torch.Tensor, documents: torch.Tensor | None = None) -> object:
        hidden = torch.zeros(*tokens.shape, self.head.in_features)
        for number, row in enumerate(tokens.numpy()):
            for place in range(len(row)):
                if (answer := induction_answer(row, place)) is not None:
                    hidden[number, place, answer] = 20.0
        return type("Output", (), {"hidden": hidden})


def test_induction_model_predicts_all_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Induction(512)
    found = measure_probes(model, np.arange(100, 400), device=CPU, eot_id=EOT, context_len=70, n=3)  # pyright: ignore
    assert {name: values["to"] for name, values in found.items()} == {
        "copying": [16, 32], "induction": [16, 32], "recall": [16, 32],
    }  # fmt: skip
    for values in found.values():
        assert values["accuracy"] == [1.0, 1.0] and min(values["gain"]) > 0.9 * np.log(512)
    assert found["copying"]["n"] == [3 * 15, 3 * 31] and found["recall"]["n"] == [24, 24]


def test_untrained_model_has_no_gain() -> None:
    found = measure_probes(small_model("hybrid"), np.arange(10, 60), device=CPU, eot_id=EOT, context_len=64, n=4)
    assert all(abs(gain) < 0.05 for values in found.values() for gain in values["gain"])


def test_no_probes_for_a_tiny_alphabet() -> None:
    assert measure_probes(small_model("dense"), np.arange(9), device=CPU, eot_id=EOT, context_len=64, n=2) == {}
