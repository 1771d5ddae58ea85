"""The processes that train one run together, each on its rows of every batch (data parallelism).

    torchrun --nproc-per-node 2 -m src.train ...        one process a GPU, or two on a CPU

torchrun tells each process its rank. Gradients are summed in flat pieces of a fixed layout once a global batch is
through, rather than by torch's DistributedDataParallel: that one lays its pieces out anew after its first step, by the
order in which gradients came, so three processes and more would add up in another order after a resume, and no longer
end bit for bit alike. The price is that it does not communicate while it still computes. Collectives are called by
every process in the same order, or they wait for each other for ever: hence `agree` and `rank_zero_first`.

Opens without torch, since a run that is alone has no need of it here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from src.config.schema import UserError
from src.runtime.errors import first_line
from src.runtime.host import RankInfo, read_rank_info

if TYPE_CHECKING:
    from torch import Tensor

BUCKET_BYTES = 32 << 20
"""Gradients are summed in pieces of about this much, each of which is copied once."""
T = TypeVar("T")


class RankFailure(Exception):
    """Another process of the run has ended before its time; this one cannot go on alone."""


class RankZeroFailed(Exception):
    """The first process could not begin, and has said why."""


class ProcessGroup(RankInfo):
    """This process among those of its run. Methods with verbs wait for the others, if there are any."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is the one that writes files and talks."""
        return self.rank == 0

    def rank_slice(self, n: int) -> slice:
        """Return this process's share of n rows; n is a multiple of `size`."""
        share = n // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def all_reduce_sum(self, tensors: Iterable["Tensor"]) -> None:
        """Sum each tensor over the processes, in place; all must be of one dtype and device."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        for piece in _group_tensors(tensors):
            flat = torch.cat([tensor.flatten() for tensor in piece])
            with self._detect_rank_failure():
                distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in piece])
            for tensor, part in zip(piece, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def all_reduce_max(self, number: int | None) -> int | None:
        """Return the greatest number that any process has, so that all of them act on it at once; None: none has."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        greatest = torch.tensor(number or 0)
        with self._detect_rank_failure():
            distributed.all_reduce(greatest, distributed.ReduceOp.MAX)
        return int(greatest) or None

    def broadcast(self, value: T) -> T:
        """Return the first process's value in all of them."""
        if self.size == 1:
            return value
        from torch import distributed

        box: list[Any] = [value]
        with self._detect_rank_failure():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def rank_zero_first(self, action: Callable[[], T]) -> T:
        """Do `action` in the first process, then in the others, which find done what it does once.

        Raises: what `action` raises, in the first process, and RankZeroFailed in the others then.
        """
        if self.size == 1:
            return action()
        if not self.is_rank_zero:
            if not self.broadcast(True):
                raise RankZeroFailed
            return action()
        try:
            result = action()
        except BaseException:
            self.broadcast(False)
            raise
        self.broadcast(True)
        return result

    @contextmanager
    def _detect_rank_failure(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo, NCCL and torch's store have a class of their own each, all of this kind
            raise RankFailure(
                f"process {self.rank} of {self.size}: another process of the run has ended, so this one stops too; "
                "the same command goes on from the last checkpoint"
            ) from error


SINGLE_PROCESS = ProcessGroup()


def _group_tensors(tensors: Iterable["Tensor"]) -> Iterator[list["Tensor"]]:
    """Group tensors in their order, about `PIECE_BYTES` at a time."""
    piece: list[Tensor] = []
    for tensor in tensors:
        piece.append(tensor)
        if sum(each.nbytes for each in piece) >= BUCKET_BYTES:
            yield piece
            piece = []
    if piece:
        yield piece


@contextmanager
def open_process_group() -> Iterator[ProcessGroup]:
    """Join the other processes, where torchrun has started several. Raises UserError where they cannot be found."""
    process_group = ProcessGroup(*read_rank_info())
    if process_group.size == 1:
        yield SINGLE_PROCESS
        return
    import torch
    from torch import distributed

    try:
        # NCCL for tensors on GPUs, gloo for those on the CPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except RuntimeError as error:
        raise UserError(f"torchrun: the processes do not reach each other ({first_line(error)})") from error
    yield process_group
    distributed.destroy_process_group()  # not after an error: it might wait for processes that are gone


def reject_torchrun(why: str) -> None:
    """Raise UserError where torchrun has started what cannot be shared."""
    if read_rank_info().size > 1:
        raise UserError(f"torchrun: {why}; start it with python -m src.train")
