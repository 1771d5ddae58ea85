"""What each job of a sweep gets: CPU threads, GPUs and processes.

A job of several processes is started by torchrun. On one host it chooses a free port. On several hosts of Slurm, each
has a task that starts torchrun, and they meet at the first host.
"""

import os
from pathlib import Path
from typing import NamedTuple

from src.config.schema import LauncherConfig
from src.runtime.host import planned_ranks
from src.sweep.gpu_pool import GpuPool, open_gpu_pool

FIRST_PORT, PORTS = 12_000, 18_000
"""Ports below those that Linux gives to other programs, from 32,768 on."""


class JobResources(NamedTuple):
    """What a job gets of the machine."""

    threads: int | None = None
    """CPU threads of each of its processes; None: those that the process finds."""
    pool: GpuPool | None = None
    """Where it waits for its GPUs; without one it sees all."""
    torchrun: tuple[str, ...] = ()
    """Options of torchrun; empty for a single process."""


def find_resources(launcher: LauncherConfig, device: str, folder: Path) -> JobResources:
    """Return what each job gets. device: runtime.device. folder: of the sweep."""
    threads = threads_per_job(launcher)
    if threads is not None:
        threads = max(1, threads // planned_ranks(launcher).local_size)
    return JobResources(threads, open_gpu_pool(launcher, device, folder), torchrun_options(launcher))


def threads_per_job(launcher: LauncherConfig) -> int | None:
    """Return the default CPU threads of a job on each host; None: one per core."""
    if launcher.name == "joblib":
        return max(1, (os.cpu_count() or 1) // launcher.n_jobs)
    if launcher.name == "slurm":
        return int(os.environ.get("SLURM_CPUS_PER_TASK", "0")) or None
    return launcher.cpus_per_job if launcher.name == "ray" else None


def torchrun_options(launcher: LauncherConfig) -> tuple[str, ...]:
    """Return the options of torchrun for a job, or for this host's processes of a job on several."""
    if launcher.processes_per_job == 1:
        return ()
    local = ("--nproc-per-node", str(launcher.processes_per_job // launcher.nodes_per_job))
    if launcher.nodes_per_job == 1:
        return ("--standalone", *local)
    from submitit.slurm.slurm import SlurmJobEnvironment  # extra [slurm]; it reads the host names of Slurm's variables

    port = FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % PORTS  # jobs that share a first host have other ports
    nodes = ("--nnodes", str(launcher.nodes_per_job), "--node-rank", str(node_rank(launcher)))
    return (*nodes, *local, "--master-addr", SlurmJobEnvironment().hostnames[0], "--master-port", str(port))


def node_rank(launcher: LauncherConfig) -> int:
    """Return the number of this host among those of the job; the first one records the job."""
    return int(os.environ["SLURM_PROCID"]) if launcher.nodes_per_job > 1 else 0


def slurm_overrides(launcher: LauncherConfig) -> list[str]:
    """Return the settings of Hydra's launcher for Slurm that jobs on several hosts need."""
    if launcher.nodes_per_job == 1 or launcher.gpus_per_job is None:
        return []
    return [f"hydra.launcher.gpus_per_node={launcher.gpus_per_job // launcher.nodes_per_job}"]
