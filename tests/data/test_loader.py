"""Each window once an epoch, the same batches whenever and wherever they are asked for."""

import numpy as np
import pytest

from src.config import UserError
from src.data.loader import TrainLoader, eval_windows, mix


def stream(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint16)


@pytest.mark.parametrize("length", [9, 15, 16, 17, 100, 1003])
def test_each_window_once_an_epoch(length: int) -> None:
    loader = TrainLoader(stream(length), seq_len=8, seed=3)
    offsets = set()
    for epoch in range(20):
        starts = np.sort(loader.batch(epoch, loader.n_windows)[:, 0])
        assert (np.diff(starts) == 8).all(), "neighbouring windows meet and do not overlap"
        offsets.add(int(starts[0]))
    assert len(offsets) > 1 or length == 9
    assert loader.n_windows >= max(1, length // 8 - 1)


def test_rows_are_shifted_views_of_the_stream() -> None:
    batch = TrainLoader(stream(200), seq_len=16, seed=0).batch(5, 4)
    assert batch.shape == (4, 17)
    assert batch.dtype == np.int64
    assert (np.diff(batch) == 1).all()


def test_epochs_differ_in_order() -> None:
    loader = TrainLoader(stream(1000), seq_len=8, seed=0)
    first, second = (loader.batch(epoch, loader.n_windows)[:, 0] // 8 for epoch in (0, 1))
    assert (first != second).any()
    assert (first != np.sort(first)).any()


def test_resume_gives_the_same_batches() -> None:
    straight = TrainLoader(stream(500), seq_len=8, seed=1)
    batches = [straight.batch(step, 7) for step in range(40)]
    resumed = TrainLoader(stream(500), seq_len=8, seed=1)
    for step in (39, 3, 20):
        assert (resumed.batch(step, 7) == batches[step]).all()


def test_order_is_independent_of_micro_batch_and_world_size() -> None:
    loader = TrainLoader(stream(300), seq_len=8, seed=1)
    whole = loader.batch(11, 12)
    micro = [loader.batch(11, 12, rows=slice(i, i + 3)) for i in range(0, 12, 3)]
    assert (np.concatenate(micro) == whole).all()
    ranks = [loader.batch(11, 12, rows=range(rank, 12, 4)) for rank in range(4)]
    assert all((ranks[rank] == whole[rank::4]).all() for rank in range(4))
    flat = [loader.batch(step, 3) for step in range(44, 48)]
    assert (np.concatenate(flat) == whole).all(), "the sequence goes on, whatever the batch size"


def test_order_never_changes() -> None:
    """Known answers: an order that differs between versions would make runs incomparable unseen."""
    assert mix(np.array([0, 1], dtype=np.uint64)).tolist() == [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]
    loader = TrainLoader(stream(100), seq_len=8, seed=7)
    assert [loader.batch(step, 11)[:, 0].tolist() for step in range(3)] == [naive_starts(7, e, 11, 8) for e in range(3)]


def naive_mix(value: int) -> int:
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def naive_starts(seed: int, epoch: int, n_windows: int, seq_len: int) -> list[int]:
    key = naive_mix(naive_mix(seed) ^ epoch)
    windows = sorted(range(n_windows), key=lambda window: naive_mix(naive_mix(window) ^ key))
    return [naive_mix(key) % seq_len + seq_len * window for window in windows]


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**70])
def test_any_seed(seed: int) -> None:
    TrainLoader(stream(100), 8, seed).batch(10**9, 2)


def test_order_hash_tells_orders_apart() -> None:
    def order_hash(n: int = 100, seq_len: int = 8, seed: int = 0, fingerprint: str = "f") -> str:
        return TrainLoader(stream(n), seq_len, seed).order_hash(fingerprint)

    hashes = [order_hash(), order_hash(n=200), order_hash(seq_len=4), order_hash(seed=1), order_hash(fingerprint="g")]
    assert len(set(hashes)) == 5
    assert order_hash() == hashes[0]


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (5, 5), (12, 12), (100, 12)])
def test_eval_windows(n: int, expected: int) -> None:
    windows = eval_windows(stream(100), seq_len=8, n=n)
    assert windows.shape == (expected, 9)
    assert windows.dtype == np.int64
    assert (windows[:, 0] % 8 == 0).all()
    steps = np.diff(windows[:, 0])
    assert (steps >= 8).all()
    assert expected == 1 or steps.max() - steps.min() <= 8, "evenly spaced"


@pytest.mark.parametrize("length", [0, 8])
def test_too_short(length: int) -> None:
    with pytest.raises(UserError, match=rf"training\.seq_len=8: the val split has {length} tokens, fewer than .* 9"):
        eval_windows(stream(length), 8, 4, name="the val split")
    with pytest.raises(UserError, match=r"training\.seq_len=8"):
        TrainLoader(stream(length), 8, 0)


def test_bad_numbers() -> None:
    with pytest.raises(UserError, match=r"training\.eval_sequences=0"):
        eval_windows(stream(100), 8, 0)
    with pytest.raises(UserError, match=r"training\.seq_len=0"):
        TrainLoader(stream(100), 0, 0)
