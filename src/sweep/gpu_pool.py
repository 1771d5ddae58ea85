"""Give each job of a sweep GPUs of its own, where several jobs, or jobs of several processes, run on one machine.

A job holds the lock of a file for each of its GPUs. The system releases the locks when the job's process ends, however
it ends. The job sees its GPUs alone, through CUDA_VISIBLE_DEVICES.
"""

import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from src.config.formatting import count_of
from src.config.schema import LauncherConfig, UserError
from src.runtime.atomic_files import LockBusy, file_lock
from src.runtime.host import NVIDIA_DRIVER, VISIBLE_GPUS, gpu_names, may_use_gpu

POLL_S = 0.5
FOLDER = "gpus"
"""Folder of the locks in the folder of a sweep."""


class GpuPool(NamedTuple):
    """The GPUs of this machine, for the jobs of one sweep."""

    folder: Path
    names: list[str]
    """As CUDA_VISIBLE_DEVICES has them: indices or UUIDs."""
    gpus_per_job: int = 1
    jobs_per_gpu: int = 1

    @contextmanager
    def reserve(self) -> Generator[list[str]]:
        """Wait until enough GPUs are free, and hold them during the block; yields their names."""
        while True:
            # One job at a time collects, so that two jobs never wait for each other with half of their GPUs.
            with file_lock(self.folder / FOLDER / ".lock"), ExitStack() as locks:
                held = self._lock_free(locks)
                if len(held) == self.gpus_per_job:
                    kept = locks.pop_all()
                    break
            time.sleep(POLL_S)
        with kept:
            yield held

    def _lock_free(self, locks: ExitStack) -> list[str]:
        """Lock up to `gpus_per_job` free places: those on GPUs without a job come first."""
        held: list[str] = []
        for place in range(self.jobs_per_gpu):
            for index, name in enumerate(self.names):
                if len(held) < self.gpus_per_job and name not in held:
                    try:
                        locks.enter_context(file_lock(self.folder / FOLDER / f"{index}-{place}.lock", "in use"))
                    except LockBusy:
                        continue
                    held.append(name)
        return held


def gpus_wanted(launcher: LauncherConfig, device: str, is_there: bool) -> int:
    """Return how many GPUs each job gets: none on other devices, and by default one a process where there are GPUs."""
    if launcher.gpus_per_job is not None:
        return launcher.gpus_per_job
    return launcher.processes_per_job if is_there and may_use_gpu(device) else 0


def open_gpu_pool(launcher: LauncherConfig, device: str, folder: Path) -> GpuPool | None:
    """Return the GPUs for jobs that are started on this machine; None where a job is to see what this process sees.

    device: runtime.device. Raises: UserError if this machine has fewer GPUs than a job is to have.
    """
    is_shared = launcher.name == "joblib" or (launcher.name == "serial" and launcher.processes_per_job > 1)
    names = gpu_names()
    wanted = gpus_wanted(launcher, device, NVIDIA_DRIVER.exists() and bool(names))
    if not is_shared or (not wanted and launcher.gpus_per_job is None):
        return None
    if len(names) < wanted:
        key, none = (
            ("processes_per_job", "") if launcher.gpus_per_job is None else ("gpus_per_job", " launcher.gpus_per_job=0")
        )
        raise UserError(
            f"launcher.{key}={wanted}: this machine has {count_of(len(names), 'GPU')} ({VISIBLE_GPUS} can hide some); "
            f"give fewer, or runtime=cpu{none}"
        )
    return GpuPool(folder, names, wanted, launcher.jobs_per_gpu)
