"""Checkpoints: one folder each, written atomically; loading one executes nothing.

last/  model.safetensors  state.pt (optimizer, scaler, counters; read with weights_only=True)  meta.json
best/  model.safetensors  meta.json

Of a model in shards, every process writes its part of `last` (`sharded_files.py`), with a small state.pt beside. At the
end of a stage, the weights are in model.safetensors again, so other commands need no shards of a finished stage.

meta.json has the SHA-256 of the other files and of its own content, so that damage is detected before anything is
loaded.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.config.schema import ModelSpec, UserError
from src.model.blocks import kind_names
from src.model.cost.memory_estimate import BYTES_PER_HALF
from src.model.cost.model_cost import model_cost
from src.model.language_model import LanguageModel
from src.runtime.atomic_files import (
    apply_umask,
    file_sha256,
    find_folder,
    finite_or_none,
    read_json,
    read_yaml,
    replace_folder,
    write_json,
)
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from src.runtime.errors import first_line, raise_os_errors
from src.runtime.records import MetricsDigest, child_path, content_sha256, convert
from src.training.checkpoint_writer import CheckpointWriter
from src.training.parallel import gather_tensors, part_like
from src.training.progress import Progress
from src.training.sharded_files import PATTERN, WEIGHTS, read_optimizer, read_shards, weight_tensors, write_shards

FORMAT_VERSION = 3
WHOLE = "model.safetensors"
"""The weights as one file."""
SHARD_ERRORS = OSError, SafetensorError, RuntimeError, ValueError, AssertionError, KeyError
"""What reading a shard raises that does not fit."""
REMEDY = "give another checkpoint, or train again with rerun=true"


@dataclass(frozen=True)
class CheckpointInfo:
    """The content of meta.json."""

    folder: Path
    spec: ModelSpec
    progress: Progress
    tokenizer_sha256: str
    run: str
    sha256: dict[str, str]
    """Of each file besides meta.json."""
    meta_sha256: str
    metrics: MetricsDigest | None
    """The state of metrics.jsonl at that time; None in checkpoints of earlier versions."""

    @property
    def is_whole(self) -> bool:
        """Whether the weights are one file."""
        return WHOLE in self.sha256

    @property
    def weights_sha256(self) -> str:
        """The hash of the weights: of their file, or of the hashes of the shards."""
        return self.sha256[WHOLE] if self.is_whole else content_sha256(self.sha256)


class Meta(TypedDict):
    """The content of meta.json."""

    format_version: int
    run: str
    spec: dict[str, Any]
    progress: Progress
    tokenizer_sha256: str
    sha256: dict[str, str]
    meta_sha256: str
    metrics: NotRequired[MetricsDigest | None]


def save_checkpoint(
    folder: Path,
    model: LanguageModel,
    progress: Progress,
    *,
    tokenizer_sha256: str,
    run: str,
    state: dict[str, Any] | None = None,
    metrics: MetricsDigest | None = None,
    process_group: ProcessGroup = SINGLE_PROCESS,
    shards: Mapping[str, torch.Tensor] | None = None,
    writer: CheckpointWriter | None = None,
) -> None:
    """Write a checkpoint, replacing the previous one; `state` is what resuming needs besides the weights.

    All processes of the group call it. metrics: the state of metrics.jsonl at this time. shards: tensors of which every
    process writes its part; without weights among them, rank 0 writes the weights as one file. writer: writes a copy in
    the background.

    Raises:
        OSError: the disk is full or cannot be written to; the previous checkpoint still exists. In the background, the
            task of `writer` raises it.
        RankZeroFailed: in the other processes, if rank 0 failed.
    """
    has_weights = any(name.startswith(f"{WEIGHTS}.") for name in shards or {})
    weights = None if has_weights else gather_tensors(model.state_dict(), process_group)
    meta = {
        "format_version": FORMAT_VERSION,
        "run": run,
        "spec": model.spec.to_dict(),
        # JSON has no infinite or NaN loss; `state.pt` stores it.
        "progress": {
            key: value if key == "stage" else finite_or_none(value) for key, value in asdict(progress).items()
        },
        "tokenizer_sha256": tokenizer_sha256,
        "metrics": metrics and asdict(metrics),
    }
    with ExitStack() as stack:  # in rank 0, its end moves the folder into place
        temporary = process_group.on_rank_zero(lambda: stack.enter_context(replace_folder(folder)))
        whole = (weights, state) if process_group.is_rank_zero else (None, None)
        copied = writer.copy((*whole, shards)) if writer else None
        if writer and copied:
            writer.task.start(partial(_write_and_move, temporary, meta, stack.pop_all(), *copied, writer.process_group))
        else:
            _write_and_move(temporary, meta, stack, *whole, shards, process_group)


def _write_and_move(
    folder: Path,
    meta: dict[str, Any],
    stack: ExitStack,
    weights: dict[str, torch.Tensor] | None,
    state: dict[str, Any] | None,
    shards: Mapping[str, torch.Tensor] | None,
    process_group: ProcessGroup,
) -> None:
    """Write the files of all processes into a folder, which the end of `stack` in rank 0 moves into place.

    All processes call it together.
    """
    with stack:
        process_group.on_rank_zero(lambda: _write_whole(folder, weights, state))
        if shards is not None:
            write_shards(folder, shards, process_group)
        files = process_group.on_rank_zero(lambda: sorted(file.name for file in folder.iterdir()))
        sha256 = dict(zip(files, process_group.map(lambda name: file_sha256(folder / name), files), strict=True))

        def finish() -> None:
            _write_meta(folder, meta | {"sha256": sha256})
            stack.close()

        process_group.on_rank_zero(finish)


def _write_meta(folder: Path, meta: dict[str, Any]) -> None:
    write_json(folder / "meta.json", meta | {"meta_sha256": meta_digest(meta)})


def _write_whole(folder: Path, weights: dict[str, torch.Tensor] | None, state: dict[str, Any] | None) -> None:
    with raise_os_errors():
        if weights is not None:
            save_file(weights, folder / WHOLE)
            apply_umask(folder / WHOLE)
        if state is not None:
            with (folder / "state.pt").open("wb") as handle:  # torch's own writer does not report why it failed
                torch.save(state, handle)


def meta_digest(meta: dict[str, Any]) -> str:
    """Hash the content of meta.json without its own hash."""
    return content_sha256({key: value for key, value in meta.items() if key != "meta_sha256"})


def read_checkpoint(folder: Path) -> CheckpointInfo:
    """Read the metadata of a checkpoint. Raises UserError if it is missing, damaged or of another format."""
    folder = find_folder(folder)
    file = folder / "meta.json"
    meta = read_json(file)
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if version is not None and version != FORMAT_VERSION:
        raise UserError(f"{folder}: checkpoint format {version}, this program reads {FORMAT_VERSION}")
    meta = convert(file, meta, Meta, REMEDY)
    if meta["meta_sha256"] != meta_digest(cast(dict[str, Any], meta)):
        raise UserError(f"{file}: damaged: its SHA-256 is not the recorded one; {REMEDY}")
    try:
        spec = ModelSpec.from_dict(meta["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: spec: not valid for a model ({error}); {REMEDY}") from None
    metrics = cast(dict[str, Any] | None, meta.get("metrics"))
    info = CheckpointInfo(
        folder,
        spec,
        Progress(**cast(dict[str, Any], meta["progress"])),
        meta["tokenizer_sha256"],
        meta["run"],
        meta["sha256"],
        meta["meta_sha256"],
        MetricsDigest(**metrics) if metrics else None,
    )
    if unknown := [kind for kind in spec.blocks if kind not in kind_names()]:
        raise UserError(f"{file}: unknown block {unknown[0]!r}; add its folder to src/model/blocks")
    weights = folder / WHOLE
    needed = BYTES_PER_HALF * model_cost(spec, 1).total_params
    if weights.exists() and weights.stat().st_size < needed:  # checked before a model of this size is built
        raise UserError(
            f"{weights}: truncated, or of another model ({weights.stat().st_size:,} bytes of at least {needed:,})"
        )
    return info


def find_checkpoint(path: Path, kind: str) -> CheckpointInfo:
    """Read a checkpoint folder, or `kind` (last or best) of the last stage of a run that is not a branch."""
    if has_checkpoint(path):
        return read_checkpoint(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a run directory, as in the last line of a run")
    found = [stage / kind for stage in _list_stage_folders(path) if has_checkpoint(stage / kind)]
    if not found:
        raise UserError(f"{path}: no checkpoint in it; give the directory of a trained run, or a checkpoint folder")
    return read_checkpoint(found[-1])


def _list_stage_folders(run_dir: Path) -> list[Path]:
    """List the folders of a run's stages without branches, in order; file times do not survive a copy."""
    config, folder = run_dir / "config.yaml", run_dir / "checkpoints"
    if not config.exists():
        return sorted(folder.glob("*"))
    stages = read_yaml(config, "stage")["stage"].get("stages")
    if not isinstance(stages, dict):
        raise UserError(f"{config}: stage.stages: not a mapping of stages; the file is damaged or of another program")
    whole = [name for name, stage in stages.items() if not (isinstance(stage, dict) and stage.get("branch_of"))]
    return [child_path(folder, name) for name in whole]


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is a checkpoint, also one set aside while the next one replaces it."""
    return (find_folder(folder) / "meta.json").exists()


def verified_file(info: CheckpointInfo, name: str) -> Path:
    """Return a file of a checkpoint after checking its hash. Raises UserError if it is missing or has changed."""
    file = info.folder / name
    try:
        if file_sha256(file) == info.sha256.get(name):
            return file
        problem = "damaged: its SHA-256 is not the one in meta.json"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if has_checkpoint(info.folder) and read_checkpoint(info.folder).meta_sha256 != info.meta_sha256:
        raise UserError(
            f"{info.folder}: the run has replaced it in the meantime; repeat the command to read the new one"
        )
    best = info.folder.with_name("best")
    other = info.folder.name == "last" and (best / "meta.json").exists()
    remedy = f"; the weights in {best} may be intact: init_from={best}" if other else ""
    raise UserError(f"{file}: {problem}{remedy}")


def _verify_shards(info: CheckpointInfo, process_group: ProcessGroup) -> None:
    """Check the hash of every shard, which the processes share. Raises UserError if one is missing or has changed."""
    names = [name for name in info.sha256 if Path(name).match(PATTERN)]
    process_group.map(lambda name: verified_file(info, name), names)
    if unknown := {file.name for file in info.folder.glob("*.safetensors")} - info.sha256.keys():
        raise UserError(f"{info.folder / min(unknown)}: not a file of this checkpoint; move it away")


def load_weights(info: CheckpointInfo, model: LanguageModel, process_group: ProcessGroup = SINGLE_PROCESS) -> None:
    """Load weights into a model of the same spec; all processes of the group call it.

    Raises: UserError if a file is damaged or does not match.
    """
    if not info.is_whole:
        _verify_shards(info, process_group)
        try:
            read_shards(info.folder, weight_tensors(model), process_group)
        except SHARD_ERRORS as error:
            raise UserError(f"{info.folder}: cannot be read as weights of this model ({first_line(error)})") from None
        return
    file = verified_file(info, WHOLE)
    try:
        held = model.state_dict()
        model.load_state_dict({name: part_like(tensor, held.get(name)) for name, tensor in load_file(file).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: cannot be read as weights of this model ({first_line(error)})") from None


def load_sharded_optimizer(
    info: CheckpointInfo, model: LanguageModel, optimizer: torch.optim.Optimizer, process_group: ProcessGroup
) -> dict[str, Any]:
    """Load an optimizer's state dict from shards, for the parts that this process holds; all processes call it.

    Raises: UserError if a file is damaged or does not match.
    """
    _verify_shards(info, process_group)
    try:
        return read_optimizer(info.folder, model, optimizer, process_group)
    except SHARD_ERRORS as error:
        raise UserError(f"{info.folder}: cannot be read as an optimizer's state ({first_line(error)})") from None


def load_state(info: CheckpointInfo) -> dict[str, Any]:
    """Load what resuming needs besides the weights; it can only contain tensors and plain values.

    Without the key `optimizer`, `load_sharded_optimizer` has the rest.
    """
    file = verified_file(info, "state.pt")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a corrupt file: IndexError, KeyError, struct.error ...
        raise UserError(f"{file}: cannot be read ({first_line(error)})") from None
