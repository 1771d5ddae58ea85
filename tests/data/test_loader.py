"""The loader visits each window once per epoch, and batches depend only on tokens, seed and step."""

from fractions import Fraction

import numpy as np
import pytest

from src.config.schema import UserError
from src.data.hashing import splitmix64
from src.data.loader import TrainLoader, eval_windows


def stream(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.uint16)


@pytest.mark.parametrize("length", [9, 15, 16, 17, 100, 1003])
def test_each_window_once_an_epoch(length: int) -> None:
    loader = TrainLoader(stream(length), seq_len=8, seed=3)
    offsets = set()
    for epoch in range(20):
        starts = np.sort(loader.batch(epoch, loader.n_windows)[:, 0])
        assert (np.diff(starts) == 8).all(), "windows are adjacent and do not overlap"
        offsets.add(int(starts[0]))
    assert len(offsets) > 1 or length == 9
    assert loader.n_windows >= max(1, length // 8 - 1)


def test_targets_are_shifted_inputs() -> None:
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


def test_order_does_not_depend_on_micro_batch_or_world_size() -> None:
    loader = TrainLoader(stream(300), seq_len=8, seed=1)
    whole = loader.batch(11, 12)
    micro = [loader.batch(11, 12, rows=slice(i, i + 3)) for i in range(0, 12, 3)]
    assert (np.concatenate(micro) == whole).all()
    ranks = [loader.batch(11, 12, rows=range(rank, 12, 4)) for rank in range(4)]
    assert all((ranks[rank] == whole[rank::4]).all() for rank in range(4))
    flat = [loader.batch(step, 3) for step in range(44, 48)]
    assert (np.concatenate(flat) == whole).all(), "the sequence does not depend on the batch size"


def test_order_equals_recorded_values() -> None:
    """Recorded values: runs with different orders would not be comparable."""
    assert splitmix64(np.array([0, 1], dtype=np.uint64)).tolist() == [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]
    loader = TrainLoader(stream(100), seq_len=8, seed=7)
    assert [loader.batch(step, 11)[:, 0].tolist() for step in range(3)] == [naive_starts(7, e, 11, 8) for e in range(3)]


def naive_splitmix64(value: int) -> int:
    z = (value + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def naive_starts(seed: int, epoch: int, n_windows: int, seq_len: int) -> list[int]:
    key = naive_splitmix64(naive_splitmix64(seed) ^ epoch)
    windows = sorted(range(n_windows), key=lambda window: naive_splitmix64(naive_splitmix64(window) ^ key))
    return [naive_splitmix64(key) % seq_len + seq_len * window for window in windows]


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**70])
def test_any_integer_is_a_seed(seed: int) -> None:
    TrainLoader(stream(100), 8, seed).batch(10**9, 2)


def test_order_hash_differs_between_orders() -> None:
    def order_hash(n: int = 100, seq_len: int = 8, seed: int = 0, fingerprint: str = "f") -> str:
        return TrainLoader(stream(n), seq_len, seed).order_hash(fingerprint)

    hashes = [order_hash(), order_hash(n=200), order_hash(seq_len=4), order_hash(seed=1), order_hash(fingerprint="g")]
    assert len(set(hashes)) == 5
    assert order_hash() == hashes[0]
    assert order_hash(seed=7) == "6e889dfeb965a495", "recorded before mixtures existed"


STREAMS = {"code": (0, 500), "language": (10_000, 300), "poems": (20_000, 100)}
"""First token id and number of ids of each corpus; the ids of the corpora do not overlap."""


def corpus_loader(name: str, **shares: float) -> TrainLoader:
    start, length = STREAMS[name]
    mix = [(corpus_loader(other), share) for other, share in shares.items()]
    return TrainLoader((start + np.arange(length)).astype(np.uint16), 8, seed=5, mix=mix)


@pytest.mark.parametrize(
    "shares",
    [
        {"language": 0.25},
        {"language": 0.1},
        {"language": 0.3333},
        {"language": 0.9},
        {"language": 0.01},
        {"language": 0.2, "poems": 0.35},
        {"poems": 0.6, "language": 0.1},
    ],
)
def test_a_mixture_meets_its_shares_and_keeps_each_corpus_order(shares: dict[str, float]) -> None:
    n = 700
    batches = corpus_loader("code", **shares).batch(0, n)
    corpora = batches[:, 0] // 10_000
    assert (batches // 10_000 == corpora[:, None]).all(), "each sequence is from one corpus"
    exact = {name: Fraction(str(share)) for name, share in shares.items()}
    exact["code"] = 1 - sum(exact.values(), Fraction(0))
    for index, name in enumerate(STREAMS):
        mine = batches[corpora == index]
        assert (mine == corpus_loader(name).batch(0, len(mine))).all(), name
        counts = np.cumsum(corpora == index)
        off = [abs(count - (i + 1) * exact.get(name, Fraction(0))) for i, count in enumerate(counts.tolist())]
        assert max(off) < (1 if name != "code" or len(shares) == 1 else 2), name
    if len(shares) == 1:
        assert (corpora == 1).sum() == int(n * exact["language"])


def test_a_mixture_has_no_state() -> None:
    def loader() -> TrainLoader:
        return corpus_loader("code", language=0.3)

    whole = loader().batch(11, 12)
    assert len(set(whole[:, 0] // 10_000)) == 2
    micro = loader()
    assert (np.concatenate([micro.batch(11, 12, rows=slice(i, i + 3)) for i in (9, 6, 3, 0)][::-1]) == whole).all()
    for rank in range(4):
        assert (loader().batch(11, 12, rows=range(rank, 12, 4)) == whole[rank::4]).all()
    assert (np.concatenate([loader().batch(step, 3) for step in range(44, 48)]) == whole).all()


def test_a_share_does_not_drift_in_a_long_run() -> None:
    """A share of 0.1 is exact after 10^17 sequences, where adjacent integers are equal as floats."""
    batch = corpus_loader("code", language=0.1).batch(10**15, 100)
    assert np.flatnonzero(batch[:, 0] >= 10_000).tolist() == list(range(9, 100, 10))


def test_order_hash_covers_the_mixture() -> None:
    loaders = [
        corpus_loader("code"),
        corpus_loader("code", language=0.25),
        corpus_loader("code", language=0.5),
        corpus_loader("code", poems=0.25),
        corpus_loader("language", code=0.25),
    ]
    assert len({loader.order_hash("f") for loader in loaders}) == len(loaders)
    assert loaders[1].order_hash("f") == corpus_loader("code", language=0.25).order_hash("f")


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (5, 5), (12, 12), (100, 12)])
def test_eval_windows_are_evenly_spaced(n: int, expected: int) -> None:
    windows = eval_windows(stream(100), seq_len=8, n=n)
    assert windows.shape == (expected, 9)
    assert windows.dtype == np.int64
    assert (windows[:, 0] % 8 == 0).all()
    steps = np.diff(windows[:, 0])
    assert (steps >= 8).all()
    assert expected == 1 or steps.max() - steps.min() <= 8, "evenly spaced"


@pytest.mark.parametrize("length", [0, 8])
def test_text_shorter_than_a_window_is_an_error(length: int) -> None:
    with pytest.raises(UserError, match=rf"training\.seq_len=8: the val split has {length} tokens, fewer than .* 9"):
        eval_windows(stream(length), 8, 4, name="the val split")
    with pytest.raises(UserError, match=r"training\.seq_len=8"):
        TrainLoader(stream(length), 8, 0)


def test_invalid_numbers_are_an_error() -> None:
    with pytest.raises(UserError, match=r"training\.eval_sequences=0"):
        eval_windows(stream(100), 8, 0)
    with pytest.raises(UserError, match=r"training\.seq_len=0"):
        TrainLoader(stream(100), 0, 0)


def replacing(length: int, seed: int = 7) -> TrainLoader:
    return TrainLoader(stream(length), seq_len=8, seed=seed, replacement=True)


def test_random_starts_equal_recorded_values() -> None:
    starts = [naive_splitmix64(naive_splitmix64(naive_splitmix64(7) ^ number)) % 92 for number in range(24)]
    assert replacing(100).batch(0, 24)[:, 0].tolist() == starts
    assert replacing(100).batch(5, 4, rows=slice(1, 3))[:, 0].tolist() == starts[21:23], "for any batch size"
    assert replacing(100, seed=8).batch(0, 24)[:, 0].tolist() != starts


@pytest.mark.parametrize("length", [9, 10, 17, 40])
def test_random_starts_are_uniform(length: int) -> None:
    n = 1000 * (length - 8)
    rows = replacing(length).batch(0, n)
    assert (np.diff(rows) == 1).all()
    counts = np.bincount(rows[:, 0], minlength=length - 8)
    assert len(counts) == length - 8, "the last window is complete"
    assert (abs(counts - 1000) < 5 * 1000**0.5).all()


def test_order_hash_covers_the_sampling() -> None:
    epochs = TrainLoader(stream(100), seq_len=8, seed=7)
    assert epochs.order_hash("data") != replacing(100).order_hash("data")
    assert replacing(100).order_hash("data") != replacing(101).order_hash("data")
