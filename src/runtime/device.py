"""Device, precision, threads and memory: the only module that calls torch.cuda and torch.mps.

A run opens its device once and writes what `auto` became to its config.yaml, which a resumed run reads.
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

from src.config.formatting import count_of
from src.config.schema import RuntimeConfig, UserError
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from src.runtime.host import PROCESS_THREADS, available_bytes, current_rss, machine_bytes, peak_rss

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MAX_REDUCTION = 32767
"""Before torch 2.14, reductions of this length give wrong gradients on M1 and M2 (pytorch#177116)."""

TRITON_PRECISION = "TRITON_F32_DEFAULT"
"""Variable for the precision of Triton's products of fp32."""


@dataclass(frozen=True)
class Device:
    """Where tensors are stored, and the precision of matrix products."""

    kind: str
    precision: str
    threads: int
    """CPU threads of each process."""
    process_group: ProcessGroup = SINGLE_PROCESS
    """The processes of the run; each has its own device."""
    parallel: str = "replicate"
    """`runtime.parallel`: what each of several processes holds of the model."""

    def describe(self) -> str:
        held = "a part of the model each" if self.is_sharded else "the whole model each"
        processes = f"{self.process_group.size} processes with {held}, " if self.process_group.size > 1 else ""
        threads = count_of(self.threads, "CPU thread")
        return f"Device: {self.kind.upper()}, precision {self.precision}, {processes}{threads}"

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds only its part of the model."""
        return self.parallel == "shard" and self.process_group.size > 1

    @property
    def is_apple_gpu(self) -> bool:
        return self.kind == "mps"

    @property
    def is_nvidia_gpu(self) -> bool:
        return self.kind == "cuda"

    @property
    def has_flex_gradients(self) -> bool:
        """Whether torch's FlexAttention has gradients (2.13: `torch/nn/attention/flex_attention.py`)."""
        return self.is_nvidia_gpu

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute products in the chosen precision; weights stay as they are stored."""
        return torch.autocast(self.kind, dtype=DTYPES[self.precision], enabled=self.precision != "fp32")

    def build_scaler(self) -> torch.amp.GradScaler:
        """Build a loss scaler; it is disabled except in fp16."""
        return torch.amp.GradScaler(self.kind, enabled=self.precision == "fp16")

    def tensor(self, batch: np.ndarray) -> Tensor:
        """Copy a batch to the device; on CUDA from pinned memory, without waiting until it is there."""
        on_host = torch.from_numpy(batch)
        is_pinned = self.kind == "cuda"
        return (on_host.pin_memory() if is_pinned else on_host).to(self.kind, non_blocking=is_pinned)

    def synchronize(self) -> None:
        """Wait for the device to finish; call it only to measure time."""
        if self.kind == "cuda":
            torch.cuda.synchronize()
        elif self.kind == "mps":
            torch.mps.synchronize()

    def memory_bytes(self) -> int:
        """Return the peak memory in bytes: of tensors on cuda, the current value on mps, of the process on the CPU."""
        if self.kind == "cuda":
            return torch.cuda.max_memory_allocated()
        if self.kind == "mps":
            return torch.mps.driver_allocated_memory()
        return peak_rss()

    def held_bytes(self) -> int:
        """Return the bytes that the allocator holds now; on the CPU those of the process, without freed memory."""
        if self.kind == "cuda":
            return torch.cuda.memory_reserved()
        if self.kind == "mps":
            return torch.mps.driver_allocated_memory()
        if libc := _find_glibc():
            libc.malloc_trim(0)
        return current_rss()

    def peak_growth(self, action: Callable[[], object]) -> int:
        """Run `action` and return the peak bytes of its tensors on an accelerator.

        MPS records no peak: the driver's memory afterwards is the estimate, with the cache emptied before.
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
        """Return the bytes available for tensors: of the device, or of the machine if the device shares its memory."""
        if self.kind == "cuda":
            return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        return torch.mps.recommended_max_memory() if self.kind == "mps" else machine_bytes()

    def free_bytes(self) -> int:
        """Return the bytes that tensors of this process can take now, beside other programs on the same device."""
        if self.kind == "cuda":
            return torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved()
        if self.kind == "mps":
            return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return available_bytes()

    def free_host_bytes(self) -> int:
        """Return the bytes that a copy of tensors in the host's memory can take now."""
        if self.kind == "cuda":
            return available_bytes()
        # macOS does not report what other programs hold, so at least this process's own memory is subtracted.
        return min(self.free_bytes(), machine_bytes() - current_rss())


def fast_dtype(like: Tensor) -> torch.dtype:
    """Return the fastest type on the device of `like`, for products that need two digits only.

    bf16 is 30 times slower than fp32 on a CPU without bf16 instructions, and unmeasured on MPS.
    """
    return torch.bfloat16 if like.device.type == "cuda" else torch.float32


def has_grouped_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether `F.grouped_mm` is one kernel: for bf16, on CUDA devices of compute capability 9.0 and later.

    Elsewhere it is a loop that reads the sizes of the groups on the host, for every product.
    """
    return device.type == "cuda" and dtype == torch.bfloat16 and torch.cuda.get_device_capability(device) >= (9, 0)


def needs_causal_mask(query: Tensor) -> bool:
    """Return whether SDPA needs an explicit mask instead of its causal flag for queries like this one.

    On MPS in half precision without gradients, the flag can mask in groups of four positions, so that three of them see
    the future (pytorch#195910). Reported on a Mac; not measured here.
    """
    return query.device.type == "mps" and query.dtype != torch.float32


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error of any device."""
    message = str(error).lower()
    is_torch = isinstance(error, RuntimeError) and ("out of memory" in message or "can't allocate memory" in message)
    return is_torch or isinstance(error, MemoryError)


def is_nondeterministic(error: BaseException) -> bool:
    """Return whether an error says that an operation has no deterministic form, in deterministic mode."""
    return (
        isinstance(error, RuntimeError)
        and "deterministic" in str(error)
        and torch.are_deterministic_algorithms_enabled()
    )


def open_device(config: RuntimeConfig, process_group: ProcessGroup = SINGLE_PROCESS) -> Device:
    """Resolve device and precision, and configure threads and memory.

    Raises:
        UserError: the device is missing, or does not support the precision, TF32 or a kernel.
    """
    kind = resolve_device(config.device)
    if process_group.size > 1:
        _select_local_gpu(kind, process_group)
    _set_arithmetic(config, kind)
    threads = torch.get_num_threads()
    if process_group.size > 1:  # torchrun would give one core to each process
        given = os.environ.get(PROCESS_THREADS, "")
        threads = int(given) if given.isdecimal() else max(1, (os.cpu_count() or 1) // process_group.local_size)
    threads = config.threads or threads
    torch.set_num_threads(threads)
    if kind == "cpu":
        keep_freed_memory()
    return Device(kind, _resolve_precision(config.precision, kind), threads, process_group, config.parallel)


def _set_arithmetic(config: RuntimeConfig, kind: str) -> None:
    """Set TF32 and deterministic mode for this process. Raises: UserError if the device lacks what is set."""
    if config.tf32 and kind != "cuda":
        raise UserError(f"runtime.tf32=true: {kind} computes fp32 in full; leave it out")
    if config.attention == "flex" and kind != "cuda":
        raise UserError(f"runtime.attention=flex: FlexAttention has no gradients on {kind}; use auto or sdpa")
    if config.kernels == "fla" and kind != "cuda":
        raise UserError(
            f"runtime.kernels=fla: the kernels of the extra cuda need an NVIDIA GPU, not {kind}; use auto or torch"
        )
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32  # torch's own default is true
    # Kernels in Triton use TF32 unless they, or this variable, say otherwise.
    if config.tf32:
        os.environ.pop(TRITON_PRECISION, None)
    else:
        os.environ[TRITON_PRECISION] = "ieee"
    if config.deterministic != torch.are_deterministic_algorithms_enabled():  # the call imports the compiler, for 2 s
        torch.use_deterministic_algorithms(config.deterministic)
    # To fill new memory only helps to find reads of it, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    # The backward pass of memory-efficient attention, which fp32 has on CUDA, adds in any order.
    torch.backends.cuda.enable_mem_efficient_sdp(not config.deterministic)
    if config.deterministic and kind == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def _select_local_gpu(kind: str, process_group: ProcessGroup) -> None:
    """Select the GPU of the local rank. Raises: UserError if there are fewer GPUs than processes."""
    n_devices = torch.cuda.device_count() if kind == "cuda" else 1
    if kind == "mps" or (kind == "cuda" and process_group.local_size > n_devices):
        raise UserError(
            f"torchrun: {process_group.local_size} processes, but this machine has {n_devices} {kind} device; start "
            "one process per device, or add runtime=cpu"
        )
    if kind == "cuda":
        torch.cuda.set_device(process_group.local_rank)


def check_reductions(device: Device, positions: int) -> None:
    """Check that this torch computes correct gradients on MPS for `positions` = B * T. Raises: UserError."""
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if device.kind == "mps" and version < (2, 14) and positions >= MAX_REDUCTION:
        raise UserError(
            f"training.micro_batch_size * training.seq_len = {positions}: torch {torch.__version__} computes wrong "
            f"gradients on MPS for {MAX_REDUCTION} or more; make micro_batch_size smaller or install torch>=2.14"
        )


def resolve_device(name: str) -> str:
    """Return the kind of device that a setting selects. Raises: UserError if it is not available."""
    available = {"mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, is_there in available.items() if is_there)
    if not available.get(name):
        kinds = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise UserError(f"runtime.device={name}: not available on this machine (there is {kinds}); use runtime=auto")
    return name


def is_nvidia_gpu(name: str) -> bool:
    """Return whether a setting selects an NVIDIA GPU. Raises: UserError if its device is not available."""
    return resolve_device(name) == "cuda"


def _resolve_precision(name: str, kind: str) -> str:
    if name == "auto":
        # bf16 is unmeasured on MPS, and up to 100 times slower on CPUs without its instructions. CUDA devices without
        # them emulate bf16, so emulation is excluded.
        native = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp32"
    if name == "fp16" and kind == "cpu":
        raise UserError("runtime.precision=fp16: too narrow and slow on a CPU; use fp32 or bf16")
    return name


def keep_freed_memory(keep: bool = True) -> None:
    """Have glibc keep large blocks between steps: page faults would cost as much time as the arithmetic.

    keep: False restores the largest thresholds that glibc reaches by itself (`mallopt(3)`).
    """
    libc = _find_glibc()
    if libc is None:
        return
    mmap_threshold, trim_threshold, two_gib, default_max = -3, -1, (1 << 31) - 1, 32 << 20
    libc.mallopt(mmap_threshold, two_gib if keep else default_max)
    libc.mallopt(trim_threshold, two_gib if keep else 2 * default_max)


def _find_glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL("libc.so.6")
    except OSError:  # another C library, for example musl
        return None
