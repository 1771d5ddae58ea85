"""Checks of the settings that start the jobs of a sweep. No torch."""

from src.config.schema import LauncherConfig, TrainConfig, UserError
from src.runtime.host import VISIBLE_GPUS, has_math_attention


def check_launcher(config: TrainConfig) -> None:
    """Check the settings of the launcher together. Raises: UserError, one line with key, value and remedy."""
    _check_gpus(config.launcher)
    if config.launcher.processes_per_job > 1 or config.launcher.nodes_per_job > 1:
        _check_processes(config)


def _check_gpus(launcher: LauncherConfig) -> None:
    given, processes = launcher.gpus_per_job, launcher.processes_per_job
    if given is not None and launcher.name == "serial":
        raise UserError(
            f"launcher.gpus_per_job={given}: is for launcher=joblib, ray or slurm; leave it out, or set {VISIBLE_GPUS}"
        )
    if launcher.jobs_per_gpu > 1 and (launcher.name not in ("joblib", "ray") or max(given or 1, processes) > 1):
        raise UserError(
            f"launcher.jobs_per_gpu={launcher.jobs_per_gpu}: is for launcher=joblib and ray with "
            "launcher.gpus_per_job=1; leave it out"
        )
    if given is not None and processes > 1 and given not in (0, processes):
        raise UserError(
            f"launcher.gpus_per_job={given}: each of the launcher.processes_per_job={processes} processes has one; "
            f"leave it out, or give {processes}, or 0 for none"
        )


def _check_processes(config: TrainConfig) -> None:
    launcher, sweep = config.launcher, config.sweep
    processes, nodes = launcher.processes_per_job, launcher.nodes_per_job
    if processes > 1 and launcher.name == "ray":
        raise UserError(
            f"launcher.processes_per_job={processes}: a task of Ray is one process; use launcher=joblib or slurm, or "
            "leave it out"
        )
    if processes > 1 and has_math_attention(config.runtime.device):
        raise UserError(
            f"launcher.processes_per_job={processes}: several cannot share an Apple GPU; add runtime=cpu, or leave it "
            "out"
        )
    if nodes > 1 and launcher.name != "slurm":
        raise UserError(f"launcher.nodes_per_job={nodes}: is for launcher=slurm; leave it out")
    if processes % nodes:
        raise UserError(
            f"launcher.processes_per_job={processes}: must be a multiple of launcher.nodes_per_job={nodes}, since each "
            f"host has equally many; for example {nodes * max(1, processes // nodes)}"
        )
    for key, value in (("retries", sweep.retries), ("fail_fast", sweep.fail_fast)):
        if nodes > 1 and value:
            raise UserError(
                f"sweep.{key}={value}: not with launcher.nodes_per_job={nodes}, whose hosts would have to agree on it; "
                "leave it out"
            )
