"""The one file that talks to cuda and mps: device, precision, threads, memory.

Nothing here is decided twice: a run opens its device once, writes what `auto` became into its config.yaml, and a
resumed run is given those answers.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from src.config.schema import RuntimeConfig, UserError
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from src.runtime.host import machine_bytes, peak_rss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_REDUCTION = 32767
"""Before torch 2.14, gradients on M1 and M2 are wrong where a reduction is this long (pytorch#177116)."""


@dataclass(frozen=True)
class Device:
    """Where tensors live, and in which precision products are computed."""

    kind: str
    precision: str
    threads: int
    """Of the CPU, for each process."""
    process_group: ProcessGroup = SINGLE_PROCESS
    """The processes that share the work, each with a device of its own."""

    def describe(self) -> str:
        processes = f"{self.process_group.size} processes, " if self.process_group.size > 1 else ""
        return f"Device: {self.kind.upper()}, precision {self.precision}, {processes}{self.threads} CPU threads"

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute products in the chosen precision; weights stay in fp32."""
        return torch.autocast(self.kind, dtype=DTYPES[self.precision], enabled=self.precision != "fp32")

    def build_scaler(self) -> torch.amp.GradScaler:
        """Build a loss scaler, which does nothing but in fp16."""
        return torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    def tensor(self, batch: np.ndarray) -> Tensor:
        return torch.from_numpy(batch).to(self.kind)

    def synchronize(self) -> None:
        """Wait until the device has done what was asked of it; call it only where time is taken."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()

    def memory_bytes(self) -> int:
        """Return the peak memory so far: of tensors on cuda, at this moment on mps, of the whole process on the CPU."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated()
        if self.kind == "mps":
            return torch.mps.driver_allocated_memory()
        return peak_rss()

    def peak_growth(self, action: Callable[[], object]) -> int:
        """Run `action`, and return the bytes that its tensors took on an accelerator at the worst moment.

        MPS remembers no peak: what its driver holds afterwards stands for it, unused memory given back before.
        """
        if self.kind == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            action()
            return torch.cuda.max_memory_allocated() - before
        torch.mps.empty_cache()
        before = torch.mps.current_allocated_memory()
        action()
        return torch.mps.driver_allocated_memory() - before

    def capacity_bytes(self) -> int:
        """Return the memory that there is for tensors: of the device, or of the machine where they share it."""
        if self.kind == "cuda":
            return torch.cuda.get_device_properties(0).total_memory
        return torch.mps.recommended_max_memory() if self.kind == "mps" else machine_bytes()


def fast_dtype(like: Tensor) -> torch.dtype:
    """Return the type in which products are fast where `like` lives, for what bears two digits.

    bf16 is 30 times slower than fp32 on a CPU without the instructions, and not measured on MPS.
    """
    return torch.bfloat16 if like.device.type == "cuda" else torch.float32


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory has run out, as each device words it."""
    said = str(error).lower()
    worded = isinstance(error, RuntimeError) and ("out of memory" in said or "can't allocate memory" in said)
    return worded or isinstance(error, MemoryError)


def open_device(config: RuntimeConfig, process_group: ProcessGroup = SINGLE_PROCESS) -> Device:
    """Decide device and precision, and set up threads and memory for them.

    Raises:
        UserError: the device is not there, or cannot do what is asked.
    """
    kind = resolve_device(config.device)
    if process_group.size > 1:
        _select_local_gpu(kind, process_group)
    threads = config.threads or (
        _cores_per_process(process_group) if process_group.size > 1 else torch.get_num_threads()
    )
    torch.set_num_threads(threads)
    if kind == "cpu":
        keep_freed_memory()
    return Device(kind, _resolve_precision(config.precision, kind), threads, process_group)


def _select_local_gpu(kind: str, process_group: ProcessGroup) -> None:
    """Give this process the GPU of its number. Raises UserError where there is none for it."""
    n_devices = torch.cuda.device_count() if kind == "cuda" else 1
    if kind == "mps" or (kind == "cuda" and process_group.local_size > n_devices):
        raise UserError(
            f"torchrun: {process_group.local_size} processes, but this machine has {n_devices} {kind} device; start "
            "one process per device, or add runtime=cpu"
        )
    if kind == "cuda":
        torch.cuda.set_device(process_group.local_rank)


def _cores_per_process(process_group: ProcessGroup) -> int:
    """Divide the cores of this host among its processes; torchrun would give each of them one."""
    return max(1, (os.cpu_count() or 1) // process_group.local_size)


def check_reductions(device: Device, positions: int) -> None:
    """Refuse micro batches whose gradients an old torch gets wrong on Apple silicon; `positions` is B * T."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if device.kind == "mps" and version < (2, 14) and positions >= MAX_REDUCTION:
        raise UserError(
            f"training.micro_batch_size * training.seq_len = {positions}: torch {torch.__version__} computes wrong "
            f"gradients from {MAX_REDUCTION} on with MPS; make micro_batch_size smaller or install torch>=2.14"
        )


def resolve_device(name: str) -> str:
    """Return the kind of device that a name means. Raises UserError where it is not there."""
    available = {
        "mps": torch.backends.mps.is_available(),
        "cuda": torch.cuda.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(kind for kind, there in available.items() if there)
    if not available.get(name):
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise UserError(f"runtime.device={name}: not available on this machine (there is {there}); use runtime=auto")
    return name


def _resolve_precision(name: str, kind: str) -> str:
    if name == "auto":
        # fp32 on MPS until a Mac has shown that bf16 pays; on CPUs without the instructions bf16 is 100 times slower.
        # CUDA devices without them compute it as well, by emulation, and say so only if asked.
        native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    if name == "fp16" and kind == "cpu":
        raise UserError("runtime.precision=fp16: too narrow and slow on a CPU; use fp32 or bf16")
    return name


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep large blocks between steps: returning and faulting them in again costs as much as arithmetic.

    With `keep` False it returns them by the largest thresholds that it comes to by itself (`mallopt(3)`).
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # another C library, musl for one
        return
    mmap_threshold, trim_threshold, two_gib, own_most = -3, -1, (1 << 31) - 1, 32 << 20
    libc.mallopt(mmap_threshold, two_gib if keep else own_most)
    libc.mallopt(trim_threshold, two_gib if keep else 2 * own_most)
