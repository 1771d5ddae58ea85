"""Checkpoints are written while training goes on, from a copy of the tensors in the host's memory.

Training waits only for the copy, or for the whole of it where memory has no room for a copy.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from src.config.formatting import show_bytes
from src.runtime.background import BackgroundTask
from src.runtime.device import Device
from src.runtime.log import LogFunction
from src.training.parallel import local

FREE_SHARE = 0.5
"""The largest part of the free memory that a copy may take: the next step, or another run, may need the rest."""


class CheckpointWriter:
    """The thread that writes checkpoints, one at a time, and the copies that it writes.

    With several processes, all have one, and all make and call it together.
    """

    def __init__(self, task: BackgroundTask, device: Device, log_info: LogFunction) -> None:
        self.task, self._device, self._log_info = task, device, log_info
        self.process_group = device.process_group.for_thread()
        self._has_room = True

    def wait(self) -> None:
        """Wait for what is being written. Raises: what writing raised, and RankZeroFailed in other ranks than 0."""
        self._device.process_group.on_rank_zero(self.task.wait)
        self.task.wait()

    def copy(self, content: Any) -> Any:
        """Return nested values with copies of their tensors on the CPU, or None if memory has no room for them."""
        needed = sum(local(tensor).nbytes for tensor in _tensors(content))
        free = self._device.free_host_bytes()
        is_full = self._device.process_group.all_reduce_max(int(needed > FREE_SHARE * free))
        had_room, self._has_room = self._has_room, not is_full
        if self._has_room:
            return _copy_to_host(content)
        if had_room:
            self._log_info(
                f"Checkpoints: training waits while they are written, as a copy of {show_bytes(needed)} is more than "
                f"{FREE_SHARE:.0%} of the free memory ({show_bytes(max(free, 0))})"
            )
        return None


def _tensors(content: Any) -> Iterator[torch.Tensor]:
    if isinstance(content, torch.Tensor):
        yield content
    elif isinstance(content, Mapping | list | tuple):
        for item in content.values() if isinstance(content, Mapping) else content:
            yield from _tensors(item)


def _copy_to_host(content: Any) -> Any:
    if isinstance(content, torch.Tensor):
        return content.detach().to("cpu", copy=True)
    if isinstance(content, Mapping):
        return {key: _copy_to_host(item) for key, item in content.items()}
    return type(content)(map(_copy_to_host, content)) if isinstance(content, list | tuple) else content
