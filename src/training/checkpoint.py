"""Checkpoints: a folder each, written whole or not at all, and loading one executes nothing.

last/  model.safetensors  state.pt (optimizer, scaler, counters; read with weights_only=True)  meta.json
best/  model.safetensors  meta.json

meta.json has the SHA-256 of the files beside it and of what it says itself: a flipped byte is found before anything is
made of it.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.config.schema import ModelSpec, UserError
from src.model.blocks import kind_names
from src.model.blocks.kind import BYTES_PER_FLOAT
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
from src.runtime.errors import first_line, raise_os_errors
from src.runtime.records import MetricsDigest, child_path, content_sha256, convert

FORMAT_VERSION = 3
REMEDY = "give another checkpoint, or train again with rerun=true"


@dataclass
class Progress:
    """How far a stage has come: all that the loop knows besides weights and optimizer."""

    stage: str
    step: int = 0
    tokens: int = 0
    skipped_steps: int = 0
    bad_steps: int = 0
    """Skipped in a row, up to now."""
    rollbacks: int = 0
    rate_scale: float = 1.0
    """Factor on the learning rate: a rollback halves it."""
    wall_time_s: float = 0.0
    """Since the stage began, over all sittings."""
    train_time_s: float = 0.0
    """Of that, in training steps."""
    val_loss: float | None = None
    val_bits_per_byte: float | None = None
    best_val_loss: float | None = None
    shared_tokens: int = 0
    """Of `tokens`, those that the origin of a branch trained on; likewise for the two times below."""
    shared_wall_time_s: float = 0.0
    shared_train_time_s: float = 0.0

    def branch(self, stage: str) -> "Progress":
        """Return the progress of a branch that begins here."""
        return replace(
            self,
            stage=stage,
            best_val_loss=None,
            shared_tokens=self.tokens,
            shared_wall_time_s=self.wall_time_s,
            shared_train_time_s=self.train_time_s,
        )


@dataclass(frozen=True)
class CheckpointInfo:
    """What stands in meta.json."""

    folder: Path
    spec: ModelSpec
    progress: Progress
    tokenizer_sha256: str
    run: str
    sha256: dict[str, str]
    """Of each file beside meta.json."""
    meta_sha256: str
    metrics: MetricsDigest | None
    """What metrics.jsonl held when it was written; None in checkpoints of earlier versions."""


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
) -> None:
    """Write a checkpoint in the place of the one before; `state` is what resuming needs besides the weights.

    metrics: what metrics.jsonl holds at this moment.

    Raises:
        OSError: the disk is full, or refuses for another reason; the checkpoint before is still there.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replace_folder(folder) as temporary, raise_os_errors():
        save_file(weights, temporary / "model.safetensors")
        apply_umask(temporary / "model.safetensors")
        if state is not None:
            with (temporary / "state.pt").open("wb") as handle:  # torch's own writer keeps no reason why it failed
                torch.save(state, handle)
        meta = {
            "format_version": FORMAT_VERSION,
            "run": run,
            "spec": model.spec.to_dict(),
            # A loss of weights that have grown too large is no number of JSON; `state.pt` keeps it.
            "progress": {
                key: value if key == "stage" else finite_or_none(value) for key, value in asdict(progress).items()
            },
            "tokenizer_sha256": tokenizer_sha256,
            "sha256": {file.name: file_sha256(file) for file in sorted(temporary.iterdir())},
            "metrics": metrics and asdict(metrics),
        }
        write_json(temporary / "meta.json", meta | {"meta_sha256": hash_of(meta)})


def hash_of(meta: dict[str, Any]) -> str:
    """Hash what meta.json says, all but its own hash."""
    return content_sha256({key: value for key, value in meta.items() if key != "meta_sha256"})


def read_checkpoint(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint is. Raises UserError where it is none, or of another format."""
    folder = find_folder(folder)
    file = folder / "meta.json"
    meta = read_json(file)
    version = meta.get("format_version") if isinstance(meta, dict) else None
    if version is not None and version != FORMAT_VERSION:
        raise UserError(f"{folder}: checkpoint format {version}, this program reads {FORMAT_VERSION}")
    meta = convert(file, meta, Meta, REMEDY)
    if meta["meta_sha256"] != hash_of(cast(dict[str, Any], meta)):
        raise UserError(f"{file}: damaged: its SHA-256 is not the one that it holds; {REMEDY}")
    try:
        spec = ModelSpec.from_dict(meta["spec"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: spec: not that of a model ({error}); {REMEDY}") from None
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
        raise UserError(f"{file}: a model with {unknown[0]!r} blocks, which src/model/blocks has none of here")
    weights = folder / "model.safetensors"
    needed = BYTES_PER_FLOAT * model_cost(spec, 1).total_params
    if weights.exists() and weights.stat().st_size < needed:  # found before a model of any size is built
        raise UserError(f"{weights}: cut off, or of another model ({weights.stat().st_size:,} bytes of {needed:,})")
    return info


def find_checkpoint(path: Path, kind: str) -> CheckpointInfo:
    """Read a checkpoint given by itself, or `kind` (last or best) of a run's last stage that is no branch."""
    if has_checkpoint(path):
        return read_checkpoint(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a run directory, as the last line of a run names it")
    found = [stage / kind for stage in _stage_folders(path) if has_checkpoint(stage / kind)]
    if not found:
        raise UserError(f"{path}: no checkpoint in it; give a run directory that has trained, or a checkpoint folder")
    return read_checkpoint(found[-1])


def _stage_folders(run_dir: Path) -> list[Path]:
    """List the folders of a run's stages, without branches, in their order: times of files do not survive a copy."""
    config, folder = run_dir / "config.yaml", run_dir / "checkpoints"
    if not config.exists():
        return sorted(folder.glob("*"))
    stages = read_yaml(config, "stage")["stage"].get("stages")
    if not isinstance(stages, dict):
        raise UserError(f"{config}: stage.stages: are no stages; the file is damaged or not of this program")
    whole = [name for name, stage in stages.items() if not (isinstance(stage, dict) and stage.get("branch_of"))]
    return [child_path(folder, name) for name in whole]


def has_checkpoint(folder: Path) -> bool:
    """Return whether there is a checkpoint, be it set aside while the next one takes its place."""
    return (find_folder(folder) / "meta.json").exists()


def _whole(info: CheckpointInfo, name: str) -> Path:
    """Return a file of a checkpoint as it was written. Raises UserError where it is missing or has changed."""
    file = info.folder / name
    try:
        if file_sha256(file) == info.sha256.get(name):
            return file
        problem = "damaged: its SHA-256 is not that of meta.json"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if has_checkpoint(info.folder) and read_checkpoint(info.folder).meta_sha256 != info.meta_sha256:
        raise UserError(f"{info.folder}: the run has replaced it meanwhile; repeat the command to read the new one")
    best = info.folder.with_name("best")
    other = info.folder.name == "last" and (best / "meta.json").exists()
    remedy = f"; the weights in {best} may be whole: init_from={best}" if other else ""
    raise UserError(f"{file}: {problem}{remedy}")


def load_weights(info: CheckpointInfo, model: LanguageModel) -> None:
    """Fill a model of the same spec. Raises UserError where the file is corrupt or does not fit."""
    file = _whole(info, "model.safetensors")
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{file}: cannot be read as weights of this model ({first_line(error)})") from None


def load_state(info: CheckpointInfo) -> dict[str, Any]:
    """Load what resuming needs besides the weights; only tensors and plain values can be in it."""
    file = _whole(info, "state.pt")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file breaks torch's reader in any way: IndexError, KeyError, struct.error ...
        raise UserError(f"{file}: cannot be read ({first_line(error)})") from None
