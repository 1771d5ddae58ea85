"""What this machine has, asked without torch."""

import os
import resource
import sys
from pathlib import Path
from typing import NamedTuple

PROCESS_BYTES = 400 << 20
"""What Python and torch take before the first tensor: 0.3 to 0.4 GB of resident memory on Linux, CPU build."""
NVIDIA_DRIVER = Path("/proc/driver/nvidia")
CPU_INFO = Path("/proc/cpuinfo")
OMP_SPIN_COUNT = 10_000
"""How often a thread of OpenMP looks for work before it sleeps; GNU's own choice is 300,000 and more."""


def machine_bytes() -> int:
    """Return the memory of this machine, or the limit of the container that we are in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return total


def available_bytes() -> int:
    """Return the memory that a process could get now: other programs have some, and its container may have a limit."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # macOS makes room by compressing and swapping; the whole machine is the only bound there
        return machine_bytes()
    fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines())
    return min(machine_bytes(), int(fields["MemAvailable"].split()[0]) * 1024)


def is_intel() -> bool:
    """Tell whether the CPU is one of Intel's, for which its own library picks other kernels; False where unknown."""
    try:
        with CPU_INFO.open(encoding="utf-8") as file:  # of the first core alone: a server has hundreds
            return "GenuineIntel" in file.read(256)
    except OSError:  # not Linux
        return False


def limit_omp_spin() -> None:
    """Have OpenMP's threads sleep soon where there is nothing to do; to be called before torch is imported.

    A thread that spins on a core that other programs want keeps the one that it waits for from running. Heeded by GNU's
    OpenMP, which torch brings on Linux; what the user has set counts.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(OMP_SPIN_COUNT))


class RankInfo(NamedTuple):
    """The processes that train one run together: torchrun says so in the environment of each."""

    rank: int = 0
    """Number of this one."""
    size: int = 1
    local_rank: int = 0
    """Number of this one among those on this host."""
    local_size: int = 1


def read_rank_info() -> RankInfo:
    """Read what torchrun has started; a process that is alone where it has not."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return RankInfo(*(int(os.environ[name]) for name in names)) if set(names) <= set(os.environ) else RankInfo()


def has_dedicated_memory(device: str) -> bool:
    """Tell whether what runs on a device, by its name in the configuration, does not live in the machine's memory."""
    return device == "cuda" or (device == "auto" and NVIDIA_DRIVER.exists())


def peak_rss() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # before getrusage, which begins with the size of the parent
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
        if "VmHWM" in fields:
            return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
