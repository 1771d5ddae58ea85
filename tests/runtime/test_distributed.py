"""Slices, buckets and collectives of one process."""

from datetime import timedelta

import pytest
import torch

from src.config.schema import UserError
from src.runtime import distributed
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup, _group_tensors, reject_torchrun


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
    ) == (None, 15, "x", 7)


def test_buckets_hold_every_tensor_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET_BYTES", 40)
    tensors = [torch.zeros(n) for n in (4, 6, 100, 1, 2)]
    assert [[t.numel() for t in piece] for piece in _group_tensors(tensors)] == [[4, 6], [100], [1, 2]]


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
