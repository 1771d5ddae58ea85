"""What a process says of its share of the work, without any other process."""

import pytest
import torch

from src.config.schema import UserError
from src.runtime import distributed
from src.runtime.distributed import ALONE, World, _pieces, refuse_torchrun


def test_rows_are_shared_out_whole() -> None:
    rows = [list(range(12))[World(rank, 3).rows(12)] for rank in range(3)]
    assert rows == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert list(range(5))[ALONE.rows(5)] == [0, 1, 2, 3, 4]


def test_who_is_alone_waits_for_nobody() -> None:
    tensor = torch.ones(3)
    ALONE.sum_([tensor])
    assert tensor.tolist() == [1, 1, 1]
    assert (ALONE.agree(None), ALONE.agree(15), ALONE.share("x"), ALONE.first_then_all(lambda: 7)) == (None, 15, "x", 7)


def test_pieces_hold_every_tensor_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "PIECE_BYTES", 40)
    tensors = [torch.zeros(n) for n in (4, 6, 100, 1, 2)]
    assert [[t.numel() for t in piece] for piece in _pieces(tensors)] == [[4, 6], [100], [1, 2]]


def test_a_sweep_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_torchrun("nothing")
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun: no sweeps; start it with"):
        refuse_torchrun("no sweeps")
