"""Data parallelism: several processes train one run, each on its slice of every batch.

    torchrun --nproc-per-node 2 -m src.train ...        one process per GPU, or two on a CPU

Gradients are all-reduced in flat buckets of a fixed layout after each global batch. DistributedDataParallel rebuilds
its buckets after the first step, in the order of arrival, so a resumed run of three or more processes would sum in
another order and not be bit-identical. The cost: communication does not overlap with computation. Every process has to
call the same collectives in the same order, or all of them wait forever: hence `all_reduce_max` and `rank_zero_first`.

Imports torch only for several processes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from src.config.schema import UserError
from src.runtime.errors import first_line
from src.runtime.host import RankInfo, read_rank_info

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = timedelta(minutes=30)
"""A process that waits for longer stops with an error. NCCL's own limit, 10 minutes, is less than the first process may
take to write a checkpoint to a slow disk."""
BUCKET_BYTES = 32 << 20
"""Approximate bytes of gradients in one all-reduce."""
T = TypeVar("T")


class RankFailure(Exception):
    """Another process of the run has ended early, so this one has to stop."""


class RankZeroFailed(Exception):
    """Rank 0 has failed to start, and has reported why."""


class ProcessGroup(RankInfo):
    """This process and the collectives over all processes of its run."""

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is the one that writes files and logs."""
        return self.rank == 0

    def rank_slice(self, n: int) -> slice:
        """Return this process's slice of n rows; n is a multiple of `size`."""
        n_local = n // self.size
        return slice(self.rank * n_local, (self.rank + 1) * n_local)

    def all_reduce_sum(self, tensors: Iterable["Tensor"]) -> None:
        """Sum each tensor over the processes, in place, bf16 in fp32; all have one device."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        for bucket in _group_tensors(tensors):
            flat = torch.cat([(t.float() if t.dtype == torch.bfloat16 else t).flatten() for t in bucket])
            with self._detect_rank_failure():
                distributed.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def all_reduce_max(self, number: int | None) -> int | None:
        """Return the largest number of any process, so that all act on it in the same step; None if none has one."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        greatest = torch.tensor(number or 0)
        with self._detect_rank_failure():
            distributed.all_reduce(greatest, distributed.ReduceOp.MAX)
        return int(greatest) or None

    def broadcast(self, value: T) -> T:
        """Return rank 0's value in every process."""
        if self.size == 1:
            return value
        from torch import distributed

        box: list[Any] = [value]
        with self._detect_rank_failure():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def rank_zero_first(self, action: Callable[[], T]) -> T:
        """Call `action` in rank 0, then in the others, which find its files written.

        Raises: what `action` raises in rank 0, and RankZeroFailed in the others.
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
        except RuntimeError as error:  # gloo, NCCL and torch's store each raise a subclass
            raise RankFailure(
                f"process {self.rank} of {self.size}: another process of the run has ended, so this one stops too; "
                "the same command goes on from the last checkpoint"
            ) from error


SINGLE_PROCESS = ProcessGroup()


def _group_tensors(tensors: Iterable["Tensor"]) -> Iterator[list["Tensor"]]:
    """Group tensors in order into buckets of about `BUCKET_BYTES`."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(each.nbytes for each in bucket) >= BUCKET_BYTES:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


@contextmanager
def open_process_group() -> Iterator[ProcessGroup]:
    """Join the processes that torchrun has started. Raises: UserError if they cannot connect."""
    process_group = ProcessGroup(*read_rank_info())
    if process_group.size == 1:
        yield SINGLE_PROCESS
        return
    import torch
    from torch import distributed

    try:
        # NCCL for tensors on GPUs, gloo for those on the CPU.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=TIMEOUT)
    except RuntimeError as error:
        raise UserError(f"torchrun: the processes cannot connect to each other ({first_line(error)})") from error
    yield process_group
    distributed.destroy_process_group()  # not after an error: it might wait for dead processes


def reject_torchrun(reason: str) -> None:
    """Raise UserError if torchrun has started a command that runs in one process."""
    if read_rank_info().size > 1:
        raise UserError(f"torchrun: {reason}; start it with python -m src.train")
