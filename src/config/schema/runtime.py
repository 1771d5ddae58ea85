"""Where a run computes, what tracks it, and what starts the jobs of a sweep."""

from dataclasses import dataclass

from src.config.setting import MISSING, SECONDS, THREADS, Range, setting

FLA_EXTRA = "cuda"
"""The extra that `runtime.kernels=fla` needs."""
DEVICES = ("auto", "mps", "cuda", "cpu")


@dataclass
class RuntimeConfig:
    """Device, precision and speed."""

    name: str = setting(MISSING, "Name of the runtime.")
    device: str = setting(
        "auto", "Device. auto: the first that is available, in the order of the choices.", choices=DEVICES
    )
    precision: str = setting(
        "auto",
        "Arithmetic. bf16 and fp16 are by autocast; training.memory decides the weights. auto: bf16 on NVIDIA GPUs "
        "that have it, otherwise fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    tf32: bool = setting(
        False, "Compute fp32 products and convolutions with ten bits of mantissa. Only NVIDIA GPUs have that."
    )
    deterministic: bool = setting(
        False,
        "Use only operations that repeat bit for bit. Slower on an NVIDIA GPU. One without such a form ends the run.",
    )
    attention: str = setting(
        "auto",
        "Kernel for windows and document masks. sdpa: in blocks. flex: FlexAttention on NVIDIA GPUs, not with compile. "
        "auto: flex where a trial before the first step shows that it is faster.",
        choices=("auto", "sdpa", "flex"),
    )
    kernels: str = setting(
        "auto",
        "Kernels for the recurrences of mamba and gated_deltanet. torch: ours. fla: flash-linear-attention (an "
        "extra) on NVIDIA GPUs, not with compile or deterministic. auto: fla where a trial before the first step shows "
        "that it is faster.",
        choices=("auto", "torch", "fla"),
    )
    compile: bool = setting(
        False,
        "Train through torch.compile, one graph for each kind of block. It is tried before the first step: where it "
        "fails or is not faster, the run says so and continues without.",
    )
    parallel: str = setting(
        "auto",
        "What each process of torchrun holds. replicate: the whole model. shard: its part of weights, gradients and "
        "optimizer state, for models that do not fit otherwise. auto: shard where the estimate says that they do not.",
        choices=("auto", "replicate", "shard"),
    )
    activation_checkpointing: bool = setting(
        False, "Recompute each block in the backward pass. Less memory, about a third more arithmetic."
    )
    threads: int | None = setting(None, "CPU threads. null: as many as cores.", THREADS)


@dataclass
class TrackingConfig:
    """Where metrics are shown; metrics.jsonl in the run directory is always written."""

    name: str = setting(MISSING, "Name of the tracking.")
    trackers: list[str] = setting([], "Trackers to use.", choices=("wandb", "trackio", "mlflow", "tensorboard"))
    project: str = setting("advanced-code-model", "Project. MLflow calls it experiment.")
    entity: str | None = setting(None, "Account or team, for wandb. null: the default of the account.")
    mode: str = setting(
        "auto", "Mode of wandb. auto: online with a key, otherwise offline.", choices=("auto", "online", "offline")
    )
    group: str | None = setting(None, "Sweep that the run belongs to. Set by the sweep.")
    tags: list[str] = setting([], "Tags of the run.")


@dataclass
class LauncherConfig:
    """How the jobs of a sweep are started."""

    name: str = setting(MISSING, "Launcher.", choices=("serial", "joblib", "slurm", "ray"))
    n_jobs: int = setting(1, "Jobs at the same time, for joblib.", Range(1, 1024, unit="jobs"))
    address: str | None = setting(None, "Address of the Ray cluster. auto: the one on this machine.")
    cpus_per_job: int = setting(1, "CPU threads for each job, for ray.", THREADS)
    gpus_per_job: int | None = setting(
        None,
        "GPUs for each job, which sees no others. For joblib, ray and slurm. null: one for each process where there "
        "are GPUs, except on slurm, which then decides.",
        Range(0, 1024, unit="GPUs"),
    )
    jobs_per_gpu: int = setting(
        1, "Jobs that share a GPU, for joblib and ray. They slow each other down.", Range(1, 64, unit="jobs")
    )
    processes_per_job: int = setting(
        1,
        "Processes of torchrun for each job, which share its batches. Not for ray. runtime.parallel decides what each "
        "of them holds.",
        Range(1, 4096, unit="processes"),
    )
    nodes_per_job: int = setting(
        1, "Hosts for each job, for slurm. They have equally many of its processes.", Range(1, 1024, unit="hosts")
    )


@dataclass
class SweepConfig:
    """What a sweep does when a job goes wrong."""

    timeout: float | None = setting(
        None, "Time limit of an attempt at a job. The job then saves and stops, and counts as failed.", SECONDS
    )
    retries: int = setting(
        0, "Further attempts at a failed job, each from its last checkpoint.", Range(0, 1000, unit="attempts")
    )
    skip_diverged: bool = setting(False, "Do not repeat jobs whose training has diverged.")
    fail_fast: bool = setting(False, "Start no further job once one has failed.")
    live: bool | None = setting(
        None, "Show a table of all jobs instead of their output. null: where the output is a terminal."
    )
