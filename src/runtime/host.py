"""Memory, CPU and processes of this machine, without torch."""

import os
import resource
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from src.config.schema import LauncherConfig

PROCESS_BYTES = 400 << 20
"""Memory of Python and torch before the first tensor: measured 0.3 to 0.4 GB on Linux, CPU build."""
APPLE_DEVICE = "mps"
"""The device of Macs, by its name in the configuration."""
NVIDIA_DRIVER = Path("/proc/driver/nvidia")
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
"""The environment variable that names the GPUs of a process."""
PROCESS_THREADS = "ADVANCED_CODE_MODEL_THREADS"
"""The environment variable with the CPU threads of each process of a job. OMP_NUM_THREADS does not tell them: torchrun
sets it to 1 where it is not set."""
CPU_INFO = Path("/proc/cpuinfo")
OMP_SPIN_COUNT = 10_000
"""Polls of an idle OpenMP thread before it sleeps; GNU's default is 300,000 or more."""


def machine_bytes() -> int:
    """Return the bytes of memory of this machine, or the limit of its container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or no limit
        return total


def available_bytes() -> int:
    """Return the bytes that a process could allocate now, beside other programs and within the container's limit."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # macOS compresses and swaps, so the machine is the only bound
        return machine_bytes()
    fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
    return min(machine_bytes(), int(fields["MemAvailable"].split()[0]) * 1024)


def nearest_folder(path: Path) -> Path:
    """Return the path itself, or the nearest one above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def free_bytes(path: Path) -> int:
    """Return the free bytes of the disk that a path is on, or will be on once it is created."""
    return shutil.disk_usage(nearest_folder(path)).free


def gpu_names() -> list[str]:
    """Return the NVIDIA GPUs that a process here would see, as CUDA_VISIBLE_DEVICES has them; torch is not asked."""
    if (visible := os.environ.get(VISIBLE_GPUS)) is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    folder = NVIDIA_DRIVER / "gpus"
    return [str(index) for index in range(len(list(folder.iterdir())))] if folder.is_dir() else []


def may_use_gpu(device: str) -> bool:
    """Return whether a device, by its name in the configuration, is an NVIDIA GPU where there is one."""
    return device in ("auto", "cuda")


def is_intel() -> bool:
    """Return whether the CPU is by Intel, for which MKL selects other kernels; False if unknown."""
    try:
        with CPU_INFO.open(encoding="utf-8") as file:  # the first core only: a server has hundreds
            return "GenuineIntel" in file.read(256)
    except OSError:  # not Linux
        return False


def limit_omp_spin() -> None:
    """Let idle OpenMP threads sleep early; call it before torch is imported.

    On a busy machine a spinning thread takes the core that the awaited thread needs. Applies to GNU's OpenMP, which
    torch ships on Linux. A setting of the user has priority.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(OMP_SPIN_COUNT))


class RankInfo(NamedTuple):
    """Rank and size of the processes of a run, from the environment that torchrun sets."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes on this host."""
    local_size: int = 1


def read_rank_info() -> RankInfo:
    """Read rank and size from torchrun's environment; a single process without it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return RankInfo(*(int(os.environ[name]) for name in names)) if set(names) <= set(os.environ) else RankInfo()


def planned_ranks(launcher: LauncherConfig) -> RankInfo:
    """Return the processes of a run: those that torchrun has started, or else those that the launcher will start."""
    n, found = launcher.processes_per_job, read_rank_info()
    return found if found.size > 1 or n == 1 else RankInfo(size=n, local_size=n // launcher.nodes_per_job)


def has_dedicated_memory(device: str) -> bool:
    """Return whether a device, by its name in the configuration, has its own memory."""
    return device == "cuda" or (device == "auto" and NVIDIA_DRIVER.exists())


def has_math_attention(device: str) -> bool:
    """Return whether training on a device, by its name in the configuration, keeps the weights of attention.

    torch has no other kernel with gradients for MPS (`_fused_sdp_choice` in its native_functions.yaml).
    """
    return device == APPLE_DEVICE or (device == "auto" and sys.platform == "darwin")


def current_rss() -> int:
    """Return the resident set of this process in bytes; on macOS, which has no file for it, its peak."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else peak_rss()


def peak_rss() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # preferred to getrusage, which starts at the size of the parent
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
