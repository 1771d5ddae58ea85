"""Data parallelism: several processes train one run, each on its slice of every batch.

    torchrun --nproc-per-node 2 -m src.train ...        one process per GPU, or two on a CPU

The gradients are summed by FSDP2 (`src/training/parallel.py`); this module has the other collectives. Every process has
to call the same collectives in the same order, or all of them wait forever. Hence what one process finds is shared
before the others act on it: `all_reduce_max`, `rank_zero_first`, `on_rank_zero` and `map`.

Imports torch only for several processes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from src.config.schema import UserError
from src.runtime.errors import first_line
from src.runtime.host import RankInfo, read_rank_info
from src.runtime.signals import Interrupted

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = timedelta(minutes=30)
"""A process that waits for longer stops with an error. NCCL's own limit, 10 minutes, is less than the first process may
take to write a checkpoint to a slow disk."""
T = TypeVar("T")
Item = TypeVar("Item")


class RankFailure(Exception):
    """Another process of the run has ended early, so this one has to stop."""


class RankZeroFailed(Exception):
    """Rank 0 has failed, and has reported why."""


class ProcessGroup(RankInfo):
    """This process and the collectives over all processes of its run."""

    group: Any = None
    """The group of torch that they use; None: its default one."""

    def for_thread(self) -> "ProcessGroup":
        """Return the same processes with collectives on the CPU for another thread, in an order of their own.

        All processes call it together.
        """
        from torch import distributed

        other = ProcessGroup(*self)
        if self.size > 1:
            other.group = distributed.new_group(backend="gloo", timeout=TIMEOUT)
        return other

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process is the one that writes files and logs."""
        return self.rank == 0

    def rank_slice(self, n: int) -> slice:
        """Return this process's slice of n rows; n is a multiple of `size`."""
        n_local = n // self.size
        return slice(self.rank * n_local, (self.rank + 1) * n_local)

    def rows_of(self, n: int) -> list[int]:
        """Return this process's rows of n, which every process has equally many of.

        Every `size`-th row from its own rank on, then row 0 again where that gives fewer rows than in rank 0: models in
        shards need as many passes in every process. The results of such rows are discarded.
        """
        own = [*range(self.rank, n, self.size)]
        return own + [0] * (-(-n // self.size) - len(own))

    def all_reduce_sum(self, tensors: Iterable["Tensor"]) -> None:
        """Sum each tensor over the processes, in place; all have one device and one type."""
        if self.size == 1:
            return
        import torch
        from torch import distributed

        summed = [*tensors]
        flat = torch.cat([tensor.flatten() for tensor in summed])
        with self.detect_rank_failure():
            distributed.all_reduce(flat, group=self.group)
        for tensor, part in zip(summed, flat.split([tensor.numel() for tensor in summed]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def all_reduce_max(self, number: int | None) -> int | None:
        """Return the largest number of any process, so that all act on it in the same step; None if none has one."""
        if self.size == 1:
            return number
        import torch
        from torch import distributed

        greatest = torch.tensor(number or 0)
        with self.detect_rank_failure():
            distributed.all_reduce(greatest, distributed.ReduceOp.MAX, group=self.group)
        return int(greatest) or None

    def broadcast(self, value: T) -> T:
        """Return rank 0's value in every process."""
        if self.size == 1:
            return value
        from torch import distributed

        box: list[Any] = [value]
        with self.detect_rank_failure():
            distributed.broadcast_object_list(box, src=0, group=self.group)
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

    def on_rank_zero(self, action: Callable[[], T]) -> T:
        """Call `action` in rank 0 alone, and return its result in every process.

        Raises: what `action` raises in rank 0, and RankZeroFailed in the others.
        """
        if not self.is_rank_zero:
            result: tuple[T] | None = self.broadcast(None)
            if result is None:
                raise RankZeroFailed
            return result[0]
        try:
            result = (action(),)
        except BaseException:
            self.broadcast(None)
            raise
        return self.broadcast(result)[0]

    def map(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        """Call `function` for each item, the processes in turn, and return all results in order in every process.

        Raises: what `function` raises; in the processes where it does not, the same if it is Interrupted, otherwise
            RankFailure. A UserError is raised in rank 0, and RankZeroFailed in the others.
        """
        if self.size == 1:
            return [function(item) for item in items]
        from torch import distributed

        own: list[T] = []
        error: Exception | None = None
        try:
            own.extend(function(item) for item in items[self.rank :: self.size])
        except Exception as raised:
            error = raised
        failure = error
        if error is not None and not isinstance(error, Interrupted | UserError):
            failure = RankFailure(first_line(error))  # not every error can be sent
        parts: list[Any] = [None] * self.size
        with self.detect_rank_failure():
            distributed.all_gather_object(parts, (own, failure), group=self.group)
        failures = [other for _, other in parts if other is not None]
        if any(isinstance(each, UserError) for each in failures) and not self.is_rank_zero:
            raise RankZeroFailed  # rank 0 reports it
        if error is not None or failures:
            raise error or failures[0]
        return [parts[index % self.size][0][index // self.size] for index in range(len(items))]

    @contextmanager
    def detect_rank_failure(self) -> Iterator[None]:
        """Turn the error of a collective whose other processes have ended into RankFailure."""
        try:
            yield
        except RuntimeError as error:
            if not _is_collective_error(error):
                raise
            raise RankFailure(
                f"process {self.rank} of {self.size}: another process of the run has ended, so this one stops too; "
                "the same command goes on from the last checkpoint"
            ) from error


def _is_collective_error(error: RuntimeError) -> bool:
    """Return whether an error is one of a collective: NCCL and torch's store raise subclasses, gloo names its file."""
    from torch import distributed

    return isinstance(error, distributed.DistError) or "gloo" in str(error)


SINGLE_PROCESS = ProcessGroup()


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
        raise UserError(f"torchrun: {reason}; start it with python -m")
