"""Shares of rows, and collectives of one process; `tests/training/test_parallel.py` has those of several."""

from datetime import timedelta

import pytest
import torch

from src.config.schema import UserError
from src.runtime import distributed
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup, reject_torchrun


def test_rank_slices_cover_all_rows() -> None:
    rows = [list(range(12))[ProcessGroup(rank, 3).rank_slice(12)] for rank in range(3)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert list(range(5))[SINGLE_PROCESS.rank_slice(5)] == [0, 1, 2, 3, 4]


def test_collectives_of_a_single_process_return_at_once() -> None:
    tensor = torch.ones(3)
    SINGLE_PROCESS.all_reduce_sum([tensor])
    assert tensor.tolist() == [1, 1, 1]
    assert (
        SINGLE_PROCESS.all_reduce_max(None),
        SINGLE_PROCESS.all_reduce_max(15),
        SINGLE_PROCESS.broadcast("x"),
        SINGLE_PROCESS.rank_zero_first(lambda: 7),
        SINGLE_PROCESS.on_rank_zero(lambda: 8),
        SINGLE_PROCESS.map(lambda item: item + 1, [1, 2]),
    ) == (None, 15, "x", 7, 8, [2, 3])


@pytest.mark.parametrize("n", [0, 1, 4, 9])
def test_every_process_gets_as_many_rows(n: int) -> None:
    rows = [ProcessGroup(rank, 4).rows_of(n) for rank in range(4)]
    assert {len(each) for each in rows} == {-(-n // 4)}
    own = [row for rank, each in enumerate(rows) for row in (each if rank == 0 else [r for r in each if r])]
    assert sorted(own) == list(range(n))
    assert SINGLE_PROCESS.rows_of(n) == list(range(n))


def test_a_sweep_under_torchrun_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reject_torchrun("nothing")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun: no sweeps; start it with"):
        reject_torchrun("no sweeps")


def test_a_process_waits_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    given: dict[str, timedelta] = {}
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda backend, timeout: given.update({backend: timeout})
    )
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with distributed.open_process_group() as process_group:
        assert process_group.size == 2
    assert given == {"gloo": timedelta(minutes=30)}
