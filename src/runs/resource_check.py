"""Check that a run fits the memory and disk of this machine, and suggest settings that fit."""

from dataclasses import replace
from pathlib import Path

from src.config.formatting import show_bytes
from src.config.schema import ModelSpec, TrainConfig, UserError
from src.model.blocks import kind_of
from src.model.blocks.kind import BYTES_PER_FLOAT
from src.model.cost.memory_estimate import Memory, checkpoint_bytes, divisors, training_memory
from src.runtime.host import (
    PROCESS_BYTES,
    free_bytes,
    has_dedicated_memory,
    has_math_attention,
    machine_bytes,
    planned_ranks,
)


def check_memory(config: TrainConfig, spec: ModelSpec) -> None:
    """Check that training fits the memory of this machine. Raises: UserError with settings that fit.

    Devices with dedicated memory are not checked here: `check_gpu_memory` does it where the run has its GPU.
    """
    if has_dedicated_memory(config.runtime.device):
        return
    n_processes = planned_ranks(config.launcher).local_size
    available = machine_bytes() // n_processes - PROCESS_BYTES
    config = resolve_micro_batch(resolve_parallel(config, spec, available), spec, available)
    needed = memory_needed(config, spec).total
    if needed > available:
        each = f" for each of {n_processes} processes" if n_processes > 1 else ""
        raise UserError(
            f"training.micro_batch_size={config.training.micro_batch_size}: training needs about {show_bytes(needed)}, "
            f"this machine has {show_bytes(available)}{each}{suggest_settings(config, spec, available)}"
        )


def check_gpu_memory(config: TrainConfig, spec: ModelSpec, free_bytes: int) -> None:
    """Check that training can fit what is free of the GPU of each process. Raises: UserError with settings that fit.

    In half precision the estimate is an upper bound, up to twice the memory, so only half of it has to fit.
    """
    needed = memory_needed(config, spec).total
    fitting = free_bytes if precision_of(config) == "fp32" else 2 * free_bytes
    if needed > fitting:
        bound = "" if fitting == free_bytes else "up to "
        raise UserError(
            f"training.micro_batch_size={config.training.micro_batch_size}: training needs {bound}about "
            f"{show_bytes(needed)}, the GPU has {show_bytes(free_bytes)} free{suggest_settings(config, spec, fitting)}"
        )


def resolve_micro_batch(config: TrainConfig, spec: ModelSpec, available_bytes: int) -> TrainConfig:
    """Replace `training.micro_batch_size=auto` by the largest size that fits by the estimate, at least 1."""
    if config.training.micro_batch_size != "auto":
        return config
    return with_micro_batch(config, max(1, largest_by_estimate(config, spec, available_bytes)))


def resolve_parallel(config: TrainConfig, spec: ModelSpec, available_bytes: int) -> TrainConfig:
    """Replace `runtime.parallel=auto`: by `shard` if the whole model does not fit each process, by the estimate."""
    if config.runtime.parallel != "auto":
        return config
    trial = with_micro_batch(config, 1) if config.training.micro_batch_size == "auto" else config
    is_divided = _is_divisible(config) and memory_needed(trial, spec).total > available_bytes
    return replace(config, runtime=replace(config.runtime, parallel="shard" if is_divided else "replicate"))


def _is_divisible(config: TrainConfig) -> bool:
    """Return whether several processes could each hold a part of the model: moments in 8 bits are not divided."""
    return planned_ranks(config.launcher).size > 1 and config.training.memory == "full"


def with_micro_batch(config: TrainConfig, size: int | str) -> TrainConfig:
    """Return the same settings with another micro batch."""
    return replace(config, training=replace(config.training, micro_batch_size=size))


def largest_by_estimate(
    config: TrainConfig,
    spec: ModelSpec,
    available_bytes: int,
    *,
    seq_len: int | None = None,
    activation_checkpointing: bool | None = None,
    memory: str | None = None,
) -> int:
    """Return the largest micro batch that fits by the estimate, or 0; arguments replace settings of `config`."""
    training, runtime = config.training, config.runtime
    recompute = runtime.activation_checkpointing if activation_checkpointing is None else activation_checkpointing
    config = replace(
        config,
        training=replace(training, seq_len=seq_len or training.seq_len, memory=memory or training.memory),
        runtime=replace(runtime, activation_checkpointing=recompute),
    )
    for size in reversed(divisors(training.global_batch_size // planned_ranks(config.launcher).size)):
        if memory_needed(with_micro_batch(config, size), spec).total <= available_bytes:
            return size
    return 0


def leanest_memory(config: TrainConfig) -> str:
    """Return the value of `training.memory` with the fewest bytes that the other settings permit."""
    is_allowed = config.optimizer.name == "adamw" and config.runtime.precision != "fp16"
    return "lean" if is_allowed and planned_ranks(config.launcher).size == 1 else config.training.memory


def precision_of(config: TrainConfig) -> str:
    """Return the precision for estimates; `auto` counts as fp32, as the device is not open yet."""
    return "fp32" if config.runtime.precision == "auto" else config.runtime.precision


def memory_needed(config: TrainConfig, spec: ModelSpec) -> Memory:
    """Estimate the memory of a training step."""
    training, runtime, n_processes = config.training, config.runtime, planned_ranks(config.launcher).size
    needed = training_memory(
        spec,
        seq_len=training.seq_len,
        micro_batch_size=training.micro_batch,
        accumulate=training.global_batch_size // n_processes > training.micro_batch,
        activation_checkpointing=runtime.activation_checkpointing,
        precision=precision_of(config),
        document_masking=training.document_masking,
        dropout=training.dropout,
        memory=training.memory,
        math_attention=has_math_attention(runtime.device),
    )
    return needed if runtime.parallel != "shard" else divide_memory(needed, spec, n_processes)


def divide_memory(needed: Memory, spec: ModelSpec, n_processes: int) -> Memory:
    """Return the memory of each process if the model is in shards.

    Besides its shards, a process has the whole weights of the root unit, of the current block and of the next one, and
    the gradients of one unit before they are summed.
    """
    if n_processes == 1:
        return needed
    block = max(kind_of(kind).cost(spec, 1).params for kind in spec.blocks)
    root = (1 if spec.tie_embeddings else 2) * spec.vocab_size * spec.d_model
    return replace(
        needed,
        weights=needed.weights // n_processes,
        gradients=needed.gradients // n_processes,
        optimizer=needed.optimizer // n_processes,
        workspace=needed.workspace + BYTES_PER_FLOAT * (root + 2 * block + max(root, block)),
    )


def suggest_settings(config: TrainConfig, spec: ModelSpec, available_bytes: int) -> str:
    """Suggest up to three changes of settings with which training fits, the smallest first."""
    training, runtime = config.training, config.runtime
    in_shards = replace(config, runtime=replace(runtime, parallel="shard"))
    is_remedy = runtime.parallel != "shard" and _is_divisible(config)
    found: list[str] = (
        ["runtime.parallel=shard"] if is_remedy and memory_needed(in_shards, spec).total <= available_bytes else []
    )
    shorter = [length for length in (training.seq_len >> shift for shift in range(1, 8)) if length >= 64]
    plain, own, lean = runtime.activation_checkpointing, training.memory, leanest_memory(config)
    for seq_len, recompute, memory in [
        (training.seq_len, plain, own),
        (training.seq_len, True, own),
        (training.seq_len, plain, lean),
        (training.seq_len, True, lean),
        *((length, True, own) for length in shorter),
        *((length, True, lean) for length in shorter),
    ]:
        largest = largest_by_estimate(
            config, spec, available_bytes, seq_len=seq_len, activation_checkpointing=recompute, memory=memory
        )
        batch = min(largest, training.micro_batch)
        changes = [
            *([f"training.micro_batch_size={batch}"] if batch < training.micro_batch else []),
            *([f"training.memory={memory}"] if memory != own else []),
            *(["runtime.activation_checkpointing=true"] if recompute and not plain else []),
            *([f"training.seq_len={seq_len}"] if seq_len < training.seq_len else []),
        ]
        if batch and changes and (text := " ".join(changes)) not in found:
            found.append(text)
    if not found:
        return "; not even one sequence fits: choose a smaller size"
    return f"; for example {', or '.join(found[:3])}"


def check_disk(config: TrainConfig, spec: ModelSpec, run_dir: Path) -> None:
    """Check that the checkpoints of all stages fit the disk. Raises: UserError."""
    sizes, stages = checkpoint_bytes(spec, config.training.memory), len(config.stage.stages)
    existing = sum(file.stat().st_size for file in run_dir.glob("checkpoints/*/*/*"))
    # A checkpoint is written completely before it replaces the previous one.
    needed = max(0, stages * (sizes.best + sizes.last) - existing) + sizes.last
    if needed > (free := free_bytes(run_dir)):
        raise UserError(
            f"output_root={config.output_root}: the checkpoints of this run take up to {show_bytes(needed)}, and "
            f"{show_bytes(free)} are free; make room or give another output_root"
        )


def out_of_memory_message(config: TrainConfig, spec: ModelSpec, capacity_bytes: int, reason: str) -> str:
    """Return a one-line message: memory needed, memory available, settings that fit. reason: of the failure."""
    # The failure shows that the estimate is too low: suggestions have to need clearly less.
    needed = memory_needed(config, spec).total
    available = min(capacity_bytes - PROCESS_BYTES, int(0.9 * needed))
    return (
        f"training.micro_batch_size={config.training.micro_batch_size}: out of memory; training needs about "
        f"{show_bytes(needed)}, the device has {show_bytes(capacity_bytes)} ({reason})"
        f"{suggest_settings(config, spec, available)}"
    )
