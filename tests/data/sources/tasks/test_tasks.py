"""Every synthetic task against a plain solver, and what all of them have to fulfill."""

from dataclasses import replace

import numpy as np
import pytest

from src.config.schema import CONF, TaskConfig, UserError
from src.data.sources.tasks.registry import REGISTRY, check_task, fits
from src.data.sources.tasks.task import IGNORED, Examples, RandomRows
from src.runtime.atomic_files import read_yaml
from tests.reference.tasks import SOLVERS

NAMES = sorted(REGISTRY)
LENGTH = 48


def settings(name: str) -> TaskConfig:
    """Return the settings of a file of conf/data."""
    return TaskConfig(**read_yaml(CONF / "data" / f"{name}.yaml")["task"])


def generate(config: TaskConfig, n: int = 200, length: int = LENGTH, first: int = 0) -> Examples:
    return REGISTRY[config.name].generate(config, RandomRows(np.arange(first, first + n, dtype=np.uint64)), length)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_answers_are_those_of_a_plain_solver(name: str) -> None:
    config = settings(name)
    for row, targets in zip(*generate(config)[:2], strict=True):
        expected = SOLVERS[name](row.tolist(), config)
        assert {i: target for i, target in enumerate(targets.tolist()) if target != IGNORED} == expected


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_well_formed(name: str) -> None:
    config = settings(name)
    inputs, targets, distances = generate(config)
    assert inputs.shape == targets.shape == distances.shape == (200, LENGTH)
    assert inputs.min() >= 0 and inputs.max() < config.vocab_size and targets.max() < config.vocab_size
    asked = targets != IGNORED
    assert asked.any(axis=1).all() and (targets[asked] >= 0).all()
    assert (distances[asked] > 0).all() and (distances[~asked] == 0).all()
    assert len(np.unique(inputs, axis=0)) > 150


@pytest.mark.parametrize("name", NAMES)
def test_an_example_depends_on_its_key_alone(name: str) -> None:
    whole, part = generate(settings(name)), generate(settings(name), 5, first=20)
    for values, own in zip(whole, part, strict=True):
        assert (values[20:25] == own).all()


def test_distances_point_to_what_decides_the_answer() -> None:
    for name in ("mqar", "associative_recall", "in_context_recall", "noisy_recall"):
        inputs, targets, distances = generate(settings(name))
        rows, places = np.nonzero(targets != IGNORED)
        sources = places - distances[rows, places]
        assert (inputs[rows, sources] == inputs[rows, places]).all(), name
        assert (inputs[rows, sources + 1] == targets[rows, places]).all(), name
    for name in ("copying", "selective_copying", "fuzzy_recall"):
        inputs, targets, distances = generate(settings(name))
        rows, places = np.nonzero(targets != IGNORED)
        ahead = 1 if name == "fuzzy_recall" else 0  # there the answer is the next input
        assert (inputs[rows, places + ahead - distances[rows, places]] == targets[rows, places]).all(), name


def test_memorized_values_are_the_same_in_all_sequences() -> None:
    inputs, targets, _ = generate(settings("memorization"))
    pairs = set(zip(inputs[:, ::2].ravel().tolist(), targets[:, 1::2].ravel().tolist(), strict=True))
    assert len(pairs) == len({key for key, _ in pairs}) == len({value for _, value in pairs}) == 127


@pytest.mark.parametrize("name", ["parity", "modular_arithmetic", "associative_recall"])
def test_lengths_are_uniform_between_the_shortest_and_the_longest(name: str) -> None:
    config = replace(settings(name), min_length=9)
    ends = (generate(config, 4000).targets != IGNORED).argmax(axis=1) + 1
    assert 8 <= ends.min() <= 9 and LENGTH - 1 <= ends.max() <= LENGTH
    assert abs(ends.mean() - (9 + LENGTH) / 2) < 1
    fixed = generate(replace(config, min_length=None))
    assert len(np.unique((fixed.targets != IGNORED).argmax(axis=1))) == 1


def test_queries_follow_the_power_law() -> None:
    """With a = 0.01, the first gap is much likelier than the last; with a = 1 all are alike."""
    steep, flat = (
        (generate(replace(settings("mqar"), pairs=1, query_power=power), 4000).targets >= 0).mean(axis=0)[2::2]
        for power in (0.01, 1.0)
    )
    gaps = np.arange(1, len(steep) + 1)
    expected = gaps**-0.99 / (gaps**-0.99).sum()
    assert np.abs(steep - expected).max() < 0.03
    assert np.abs(flat - 1 / len(gaps)).max() < 0.03


def test_random_rows_draw_uniformly_and_without_repetition() -> None:
    draw = RandomRows(np.arange(20_000, dtype=np.uint64))
    chosen = draw.distinct(3, 10, 4)
    assert all(len(set(row)) == 4 for row in chosen[:500].tolist())
    for column in chosen.T:  # each place has each number alike: Floyd's set is shuffled
        assert np.abs(np.bincount(column, minlength=10)[3:] / 20_000 - 1 / 7).max() < 0.015
    weighted = draw.weighted(np.array([1.0, 2.0, 5.0]), 3)
    assert np.abs(np.bincount(weighted[:, 0]) / 20_000 - [1 / 8, 2 / 8, 5 / 8]).max() < 0.015
    assert (np.sort(weighted, axis=1) == [0, 1, 2]).all()
    assert abs(draw.uniform(3).mean() - 0.5) < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": 20}, "pairs=20"),
        ({"pairs": None}, "needs a number"),
        ({"vocab_size": 5}, "vocab_size=5"),
        ({"vocab_size": 9, "pairs": 4}, "has 3 keys"),
        ({"noise_share": 0.5}, "does not read it"),
        ({"min_length": 4}, "does not read it"),
        ({"test_tokens_to_copy": [3]}, "does not read it"),
        ({"test_lengths": [8]}, "more than the length 8"),
    ],
)
def test_wrong_settings_of_a_task_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=f"data.task.*{message}"):
        check_task(replace(settings("mqar"), **changes), 64)


@pytest.mark.parametrize("name", NAMES)
def test_the_shortest_length_that_fits_can_be_generated(name: str) -> None:
    config = replace(settings(name), min_length=None)
    length = next(n for n in range(1, 100) if fits(config, n))
    assert (generate(config, 20, length).targets != IGNORED).any(axis=1).all()
