"""Batches and held-out sets of synthetic tasks."""

from dataclasses import replace

import numpy as np

from src.config.schema import DataConfig, TaskConfig
from src.data.loader import build_loader
from src.data.task_data import TaskData, TaskLoader
from tests.data.sources.tasks.test_tasks import settings


def task_data(name: str = "mqar", seed: int = 0, **changes: object) -> TaskData:
    task: TaskConfig = replace(settings(name), **changes)
    return TaskData(DataConfig(name=name, seed=seed, task=task))


def test_batches_are_a_function_of_seed_and_step() -> None:
    loader, again = (TaskLoader(task_data(), 32, 1) for _ in range(2))
    batch = loader.batch(5, 8)
    assert batch.shape == (8, 2, 32)
    loader.batch(0, 8)
    assert (loader.batch(5, 8) == batch).all() and (again.batch(5, 8) == batch).all()
    assert (loader.batch(5, 8, range(2, 5)) == batch[2:5]).all(), "a process asks for its own rows"
    assert (loader.batch(10, 4) == batch[:4]).all(), "sequences have numbers, whatever the batch size"
    assert not (TaskLoader(task_data(), 32, 2).batch(5, 8) == batch).all()
    assert not (TaskLoader(task_data(seed=1), 32, 1).batch(5, 8) == batch).all()


def test_an_epoch_has_each_example_once_in_an_order_of_its_own() -> None:
    loader = TaskLoader(task_data(examples=12), 32, 0)
    epochs = [np.concatenate([loader.batch(step, 4) for step in range(3 * e, 3 * e + 3)]) for e in range(2)]
    first, second = (sorted(row.tobytes() for row in epoch) for epoch in epochs)
    assert first == second and len(set(first)) == 12
    assert not (epochs[0] == epochs[1]).all()
    other = TaskLoader(task_data(examples=12), 32, 1)
    own = sorted(row.tobytes() for step in range(3) for row in other.batch(step, 4))
    assert own == first, "the seed of a run decides the order, that of the data the examples"


def test_splits_have_different_examples() -> None:
    data, numbers = task_data(), np.arange(50, dtype=np.uint64)
    rows = [{row.tobytes() for row in data.generate(split, numbers, 32).inputs} for split in ("train", "val", "test")]
    assert all(len(found) == 50 for found in rows)
    assert not rows[0] & rows[1] and not rows[1] & rows[2] and not rows[0] & rows[2]


def test_held_out_sets_are_each_length_with_each_difficulty_that_fits() -> None:
    data = task_data(test_lengths=[16, 64], test_pairs=[4, 8])
    found = {(each.length, each.difficulty): each.examples for each in data.held_out_sets("test", 32, 10)}
    assert list(found) == [(16, 4), (64, 4), (64, 8)]
    assert found[64, 8].inputs.shape == (10, 64) and ((found[64, 8].targets >= 0).sum(axis=1) == 8).all()
    (only,) = task_data().held_out_sets("val", 32, 3)
    assert (only.length, only.difficulty) == (32, 4)
    (parity,) = task_data("parity", test_lengths=[]).held_out_sets("val", 40, 100)
    assert (parity.examples.inputs > 0).all() and parity.difficulty is None, "the test has whole lengths"


def test_the_fingerprint_holds_what_decides_the_examples() -> None:
    base = task_data().fingerprint
    assert base == task_data().fingerprint
    assert (
        len({base, task_data(pairs=5).fingerprint, task_data(seed=1).fingerprint, task_data("parity").fingerprint}) == 4
    )
    assert replace(task_data().config, name="other").task == task_data().task
    assert TaskData(replace(task_data().config, name="other")).fingerprint == base, "a name is a label"
    hashes = {TaskLoader(task_data(), length, seed).order_hash(base) for length in (16, 32) for seed in (0, 1)}
    assert len(hashes) == 4


def test_build_loader_opens_a_task() -> None:
    from src.config.schema import StageConfig

    loader = build_loader(task_data(), StageConfig(corpus="task"), 32, 3)
    assert (loader.batch(1, 2) == TaskLoader(task_data(), 32, 3).batch(1, 2)).all()
