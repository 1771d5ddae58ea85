"""Run jobs as tasks of a Ray cluster. Extra [ray].

Hydra's plugin for Ray requires cloud libraries and old versions of shared dependencies, so this module calls Ray
itself. A task waits for a job's process.
"""

import socket
from importlib import import_module
from pathlib import Path
from typing import Any

from src.config.schema import SweepConfig, TrainConfig, UserError
from src.runtime.errors import first_line
from src.sweep.gpu_pool import gpus_wanted
from src.sweep.job_process import run_job
from src.sweep.job_resources import JobResources, find_resources
from src.sweep.job_store import JobStore


def launch_on_ray(store: JobStore, config: TrainConfig) -> int:
    """Run the jobs that are not done on the cluster; return 0, or the exit status of a stopped job.

    Raises:
        UserError: there is no cluster at `launcher.address`.
    """
    ray: Any = import_module("ray")  # an extra, so its types may be missing
    launcher = config.launcher
    try:
        check_port(str(launcher.address))
        ray.init(address=launcher.address, log_to_driver=False, configure_logging=False)
    except Exception as error:  # ConnectionError, ValueError or RuntimeError
        raise UserError(
            f"launcher.address={launcher.address}: no Ray cluster there ({first_line(error)}); start one, for "
            "example with ray start --head"
        ) from None
    try:
        needs = resources(config, ray.cluster_resources().get("GPU", 0) > 0)
        task: Any = ray.remote(**needs, max_retries=0)(_run_task)
        needed = find_resources(launcher, config.runtime.device, store.folder)
        folder, n = str(store.folder.resolve()), len(store.jobs())
        waiting = [task.remote(folder, index, config.sweep, config.rerun, needed) for index in range(n)]
        codes = [_get_result(ray, job) for job in waiting]
    finally:
        ray.shutdown()
    return next((code for code in codes if code > 128), 0)


def resources(config: TrainConfig, has_gpus: bool) -> dict[str, float]:
    """Return what Ray has to reserve for a job; it shows a task only the GPUs that the task asks for."""
    launcher = config.launcher
    n = gpus_wanted(launcher, config.runtime.device, has_gpus)
    return {"num_cpus": launcher.cpus_per_job, "num_gpus": n / launcher.jobs_per_gpu}


def check_port(address: str) -> None:
    """Raise OSError if host:port does not accept connections; Ray would retry for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def _get_result(ray: Any, job: Any) -> int:
    try:
        return int(ray.get(job))
    except ray.exceptions.RayError as error:  # the worker died: the job is recorded as running
        print(f"Ray: a task ended without a result ({first_line(error)})")
        return 1


def _run_task(folder: str, index: int, config: SweepConfig, start_over: bool, resources: JobResources) -> int:
    store = JobStore(Path(folder))
    if config.fail_fast and store.has_failed():
        return 0
    return run_job(store, store.jobs()[index], config, start_over, resources)
