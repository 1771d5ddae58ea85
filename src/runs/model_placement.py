"""Place a model: on the device, on the processes, with the kernels and the compiled blocks that are faster.

What a trial decides is written to config.yaml, which a resumed run reads.
"""

from dataclasses import asdict

from src.config.schema import UserError
from src.model.language_model import LanguageModel
from src.runs.run import Run
from src.runtime.atomic_files import write_yaml
from src.runtime.errors import first_line
from src.training.compilation import (
    Batch,
    CompilationError,
    Forward,
    compile_and_check,
    compile_if_faster,
    compile_residual_step,
    run_pass,
)
from src.training.kernel_trial import FLA, FLEX, choose_kernel
from src.training.parallel import parallelize


def place_model(run: Run, model: LanguageModel) -> Forward:
    """Move the model to the device and the processes, and return its forward pass.

    What a trial decides is decided on the whole model, so not where it is in shards and may not fit.
    """
    if not run.device.is_sharded:
        model.to(run.device.kind)
    _choose_kernels(run, model)
    forward = model
    if run.config.runtime.compile and not run.device.is_sharded:
        forward = _compile_model(run, model)
    if run.process_group.size == 1:
        return forward
    is_compiled = run.config.runtime.compile
    parallelize(model, run.device, compile_residual_step(model) if is_compiled else None)
    if is_compiled and run.device.is_sharded:
        try:
            run_pass(model, model, _batch(run), run.device)
        except Exception as error:  # a compiler may raise any type
            raise UserError(f"runtime.compile=true: it fails here ({first_line(error)}); leave it out") from error
    return model


def _choose_kernels(run: Run, model: LanguageModel) -> None:
    """Choose the kernels of attention and recurrences once and write them to config.yaml, which a resumed run reads."""
    runtime = run.config.runtime
    has_no_trial = runtime.compile or runtime.deterministic or run.device.is_sharded
    undecided = [kernel for kernel in (FLEX, FLA) if getattr(runtime, kernel.setting) == "auto"]
    for kernel in (FLEX, FLA):
        if kernel in undecided:
            chosen = (
                kernel.ours if has_no_trial else choose_kernel(kernel, model, _batch(run), run.device, run.log_info)
            )
            setattr(runtime, kernel.setting, chosen)
        setattr(model, kernel.switch, getattr(runtime, kernel.setting) == kernel.name)
    if undecided and run.is_rank_zero:
        write_config(run)


def _batch(run: Run) -> Batch:
    training = run.config.training
    return Batch(training.micro_batch, training.seq_len, training.document_masking, training.dropout)


def _compile_model(run: Run, model: LanguageModel) -> Forward:
    """Return the compiled model, or the model if compilation fails or is not faster; a resumed run keeps its choice.

    Raises: UserError if a resumed run was compiled and cannot be here.
    """
    batch = _batch(run)
    if any((run.folder / "checkpoints").glob("*/last")):
        try:
            return compile_and_check(model, batch, run.device)
        except CompilationError as error:
            raise UserError(
                f"{run.folder}: begun with runtime.compile=true, which fails here ({error}); go on where it works or "
                "start over with rerun=true"
            ) from error
    forward = compile_if_faster(model, batch, run.device, run.log_info)
    if forward is None:
        run.config.runtime.compile = False
        run.summary["contract"]["runtime.compile"] = False
        if run.is_rank_zero:
            write_config(run)
            run.write_summary()
    return forward or model


def write_config(run: Run) -> None:
    """Write the settings as far as they are decided."""
    write_yaml(run.folder / "config.yaml", asdict(run.config))
