"""Execute one run: build, train each stage, evaluate, write summary.json. A repeated command resumes the run.

run_dir/  config.yaml    resolved, without `auto`               summary.json   status, contract, accounting, results
          metrics.jsonl  metrics by step                        samples/       texts generated after each stage
          tokenizer.json  train.log                             evaluation.json  on the test split, at the end
          checkpoints/<stage>/{best,last}/
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from src.cli.compose import read_run_config
from src.config.schema import TrainConfig, UserError
from src.data.dataset import Data, PreparedData
from src.data.tokenizer.bpe import TOKENIZER_CONFIG, load_tokenizer
from src.model.build import build_model
from src.model.cost.model_cost import model_cost
from src.model.language_model import LanguageModel
from src.model.size_matching import match_config
from src.runs.batch_size_finder import find_micro_batch_size, own_free_bytes
from src.runs.contract import build_contract
from src.runs.final_evaluation import evaluate_run
from src.runs.model_placement import place_model, write_config
from src.runs.repeat_command import explicit_command
from src.runs.resource_check import (
    check_gpu_memory,
    out_of_memory_message,
    resolve_parallel,
    with_micro_batch,
)
from src.runs.run import Run
from src.runs.stage_runner import measure_step, train_stage, write_samples
from src.runs.summary import Summary, final_summary, last_process_count, read_summary, stage_summary, start_summary
from src.runtime.atomic_files import remove_leftovers, remove_stale_temporaries, write_bytes, write_yaml
from src.runtime.background import BackgroundTask, open_background_task
from src.runtime.device import Device, check_reductions, is_nondeterministic, is_out_of_memory, open_device
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup, RankFailure
from src.runtime.errors import first_line
from src.runtime.host import PROCESS_BYTES, has_dedicated_memory
from src.runtime.log import LogFunction, open_log
from src.runtime.precision import slow_precision_warning
from src.runtime.run_lock import acquire_run_lock, report_disk_errors
from src.runtime.signals import Interrupted, StopRequest, handle_stop_signals
from src.tracking.jsonl import JsonlLog
from src.tracking.tracker import build_tracker
from src.training.checkpoint import CheckpointInfo, load_weights, read_checkpoint
from src.training.checkpoint_writer import CheckpointWriter
from src.training.compilation import Forward
from src.training.optimizers import prepare_weights


def is_done(folder: Path) -> bool:
    """Return whether a run is finished."""
    summary = read_summary(folder)
    return summary is not None and summary["status"] == "done"


def execute_run(
    config: TrainConfig,
    data: Data,
    folder: Path,
    init: CheckpointInfo | None,
    process_group: ProcessGroup = SINGLE_PROCESS,
) -> Summary:
    """Train in `folder` until every stage is done, and return the summary.

    Only rank 0 locks the folder, writes to it and logs.

    Raises:
        UserError: another process works in the folder, the disk is full or read-only, the folder was removed, or the
            device is missing or does not support the precision.
        Interrupted: a stop signal was received; everything is saved.
        RankFailure: another process of this run has ended.
    """
    with (
        report_disk_errors(folder, config.rerun),
        acquire_run_lock(folder) if process_group.is_rank_zero else nullcontext(lambda: True) as is_held,
        open_log(folder / "train.log") if process_group.is_rank_zero else nullcontext(_discard) as log_info,
        handle_stop_signals() as stop,
        open_background_task() as writing,
    ):
        run = _prepare_run(config, data, folder, process_group, is_held, init, stop, log_info, writing)
        exit_code = 1
        try:
            with report_disk_errors(folder, config.rerun, is_held):
                _train_within_memory(run, init)
            run.summary["status"], run.summary["error"] = "done", None
            exit_code = 0
        except Interrupted as interrupted:
            run.summary["status"], run.summary["error"] = "interrupted", f"stopped by {interrupted}"
            exit_code = interrupted.exit_code
            raise
        except BaseException as error:
            kind = "" if isinstance(error, UserError | RankFailure) else f"{type(error).__name__}: "
            run.summary["status"], run.summary["error"] = "failed", f"{kind}{first_line(error)}"
            logging.getLogger("src").debug("failed", exc_info=True)
            raise
        finally:
            _write_final_summary(run)
            if run.tracker is not None:
                run.tracker.summarize(dict(run.summary["final"] or {}))
                run.tracker.finish(exit_code)
        return run.summary


def _discard(line: str) -> None:
    """Log nothing: only rank 0 logs."""


def _write_final_summary(run: Run) -> None:
    """Write the final summary; an error of the disk must not hide the error that ended the run."""
    try:
        run.write_summary()
    except (OSError, UserError):
        if run.summary["status"] == "done":
            raise


def _prepare_run(
    config: TrainConfig,
    data: Data,
    folder: Path,
    process_group: ProcessGroup,
    is_held: Callable[[], bool],
    init: CheckpointInfo | None,
    stop: StopRequest,
    log_info: LogFunction,
    writing: BackgroundTask,
) -> Run:
    """Resolve `auto`, write config.yaml and the first summary, and return the state of the run."""
    known = process_group.on_rank_zero(lambda: _resolve_device(config, data, folder, process_group))
    device = open_device(known.runtime, process_group)
    # The GPUs of a run can have different amounts of free memory; every process has the same micro batch.
    free = min(process_group.map(lambda _: own_free_bytes(device, known.launcher), range(process_group.size)))
    config = process_group.on_rank_zero(lambda: _prepare_folder(known, data, folder, device, free, stop, log_info))
    device = replace(device, parallel=config.runtime.parallel)
    log_info(device.describe())
    if slow := slow_precision_warning(device):
        log_info(slow)

    match = match_config(config)
    cost = model_cost(match.spec, config.training.seq_len)
    solved = "".join(f", {knob}={value}" for knob, value in match.solved.items())
    log_info(
        f"Model: {config.architecture.name} {config.size.name}, {cost.total_params:,} parameters, "
        f"{cost.active_non_embedding_params:,} active without embeddings ({match.residual:+.2%} of dense{solved})"
    )
    summary = process_group.on_rank_zero(
        lambda: start_summary(config, build_contract(config, data, init, device), folder, device, match, cost)
    )
    if process_group.is_rank_zero:
        init_run = init.folder.parents[2] if init else None
        summary["command"] = explicit_command(config, data, init_run, process_group.size)
    tokenizer = load_tokenizer(folder / "tokenizer.json") if isinstance(data, PreparedData) else None
    metrics = JsonlLog(folder / "metrics.jsonl") if process_group.is_rank_zero else None
    writer = CheckpointWriter(writing, device, log_info)
    run = Run(
        config, data, folder, device, match, cost, tokenizer, summary, metrics, None, stop, log_info, is_held, writer
    )
    run.write_summary()
    return run


def _prepare_folder(
    config: TrainConfig,
    data: Data,
    folder: Path,
    device: Device,
    free_bytes: int,
    stop: StopRequest,
    log_info: LogFunction,
) -> TrainConfig:
    """Remove what killed processes left, write config.yaml and the tokenizer, and return the resolved settings."""
    remove_stale_temporaries(folder.parent, folder.name)
    for place in (folder, folder / "samples", *folder.glob("checkpoints/*")):
        remove_leftovers(place)
    config = _fit_memory(config, device, free_bytes, stop, log_info)
    _write_config(config, folder)
    for name in ("tokenizer.json", TOKENIZER_CONFIG):
        if isinstance(data, PreparedData) and not (folder / name).exists():
            write_bytes(folder / name, data.tokenizer_path.with_name(name).read_bytes())
    return config


def _check_same_data(folder: Path, data: Data) -> None:
    """Raise UserError if the run was started on other data."""
    if summary := read_summary(folder):
        begun = str(summary["contract"].get("data_hash", data.fingerprint))
        if begun != data.fingerprint:
            raise UserError(
                f"{folder}: begun on data {begun[:12]}, but {data.location} is {data.fingerprint[:12]}; give the data "
                "it was begun on (data.dir=...), or start over with rerun=true"
            )


def _resolve_device(config: TrainConfig, data: Data, folder: Path, process_group: ProcessGroup) -> TrainConfig:
    """Resolve device, precision and threads, or read them and the micro batch from config.yaml of a resumed run.

    What each process holds of the model may change when a run is resumed.

    Raises:
        UserError: the device is missing, or the run was begun on other data or elsewhere.
    """
    _check_same_data(folder, data)
    decided = folder / "config.yaml"
    if decided.exists():
        before = read_run_config(decided)
        known = before.runtime
        config = replace(config, training=replace(config.training, measured_steps=before.training.measured_steps))
        if last_process_count(folder) == process_group.size:
            config = with_micro_batch(config, before.training.micro_batch_size)
        else:  # another part of the batch and of the cores
            known.threads = config.runtime.threads
        known.parallel = config.runtime.parallel
        config = replace(config, runtime=known)
    try:
        device = open_device(config.runtime, process_group)
    except UserError as error:
        if not decided.exists():
            raise
        raise UserError(f"{folder}: begun elsewhere, go on there or start over with rerun=true ({error})") from None
    runtime = replace(config.runtime, device=device.kind, precision=device.precision, threads=device.threads)
    return replace(config, runtime=runtime)


def _fit_memory(
    config: TrainConfig, device: Device, free_bytes: int, stop: StopRequest, log_info: LogFunction
) -> TrainConfig:
    """Decide what each process holds, and the micro batch, by the memory of the run's own devices.

    free_bytes: the least that a process has.

    Raises:
        UserError: not even one sequence fits, or the micro batch that is given does not fit a GPU.
        Interrupted: a stop signal was received; nothing is written.
    """
    spec, is_gpu = match_config(config).spec, has_dedicated_memory(device.kind)
    host_bytes = device.capacity_bytes() // device.process_group.local_size - PROCESS_BYTES
    config = resolve_parallel(config, spec, free_bytes if is_gpu else host_bytes)
    if config.training.micro_batch_size == "auto":
        sharded = replace(device, parallel=config.runtime.parallel)
        size = find_micro_batch_size(config, spec, sharded, free_bytes, stop, log_info)
        config = with_micro_batch(config, size)
    elif is_gpu:
        check_gpu_memory(config, spec, free_bytes)
    check_reductions(device, config.training.micro_batch * config.training.seq_len)
    return config


def _write_config(config: TrainConfig, folder: Path) -> None:
    write_yaml(folder / "config.yaml", asdict(config))


def _train_within_memory(run: Run, init: CheckpointInfo | None) -> None:
    """Train and evaluate. Raises: UserError with settings that fit if memory runs out."""
    try:
        with run.process_group.detect_rank_failure():
            _train_all(run, init)
        if run.config.evaluation.enabled:
            run.process_group.on_rank_zero(run.check_folder_exists)
            evaluate_run(
                run.config,
                run.data,
                run.folder,
                run.device,
                run.log_info,
                raise_if_stopped=run.stop.raise_if_stopped,
            )
    except (RuntimeError, MemoryError) as error:
        if is_nondeterministic(error):
            raise UserError(
                f"runtime.deterministic=true: {first_line(error)}; leave it out, or train an architecture without it"
            ) from error
        if not is_out_of_memory(error):
            raise
        line = out_of_memory_message(run.config, run.match.spec, run.device.capacity_bytes(), first_line(error))
        raise UserError(line) from error


def _train_all(run: Run, init: CheckpointInfo | None) -> None:
    """Train the stages, from the last checkpoint of a resumed run."""
    model = build_model(run.match.spec, run.config.seed)
    prepare_weights(model, run.config.training.memory)
    model.activation_checkpointing = run.config.runtime.activation_checkpointing
    if init is not None:
        load_weights(init, model, run.process_group)
        run.log_info(
            f"Weights: {init.folder} ({init.run}, after {init.progress.step} steps of stage {init.progress.stage})"
        )
    forward = place_model(run, model)
    if run.is_rank_zero:
        shown = asdict(run.config) | {"contract": run.summary["contract"]}
        run.tracker = build_tracker(run.config.tracking, run.folder, shown, run.log_info)
    if run.config.training.budget == "time" and run.config.training.measured_steps is None:
        _measure_steps(run, model, forward)
    for name, stage in run.config.stage.stages.items():
        if stop_signal := run.device.process_group.all_reduce_max(run.stop.number):
            raise Interrupted(stop_signal)  # between stages everything is saved
        if name in run.summary["stages"]:
            info = read_checkpoint(run.folder / "checkpoints" / name / "last")
            load_weights(info, model, run.process_group)
            run.check_metrics(info)
            continue
        progress = train_stage(run, name, stage, model, forward)
        entry = stage_summary(run.data, stage, progress, run.cost, run.device)
        if run.tokenizer is not None:
            entry["samples_sha256"] = write_samples(run, run.tokenizer, stage, progress, model)
        run.summary["stages"][name] = entry
        run.summary["final"] = final_summary(run.summary["stages"])
        run.process_group.on_rank_zero(run.write_summary)


def _measure_steps(run: Run, model: LanguageModel, forward: Forward) -> None:
    """Measure once how many steps fit into `training.max_seconds`, and write it to config.yaml."""
    training = run.config.training
    assert training.max_seconds is not None
    # Long enough that a moment of other load is less than half of it, and does not move the median.
    seconds = measure_step(run, model, forward, budget_s=min(30.0, max(1.0, 0.05 * training.max_seconds)))
    training.measured_steps = run.device.process_group.broadcast(max(1, int(training.max_seconds / seconds)))
    run.log_info(f"Budget: {training.max_seconds:g} s a stage, {training.measured_steps} steps of {seconds:.3f} s")
    if run.is_rank_zero:
        write_config(run)
