"""Checkpoints: a folder each, written whole or not at all, and loading one executes nothing.

last/  model.safetensors  state.pt (optimizer, scaler, counters; read with weights_only=True)  meta.json
best/  model.safetensors  meta.json

meta.json has the SHA-256 of the files beside it and of what it says itself: a flipped byte is found before anything is
made of it.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from src.config import ModelSpec, UserError
from src.model.accounting import model_cost
from src.model.blocks import kind_names
from src.model.blocks.costs import BYTES_PER_FLOAT
from src.model.language_model import LanguageModel
from src.runtime.errors import first_line
from src.runtime.files import (
    finite,
    follow_umask,
    read_json,
    read_yaml,
    replace_folder,
    settle_folder,
    sha256_of,
    write_json,
)

FORMAT_VERSION = 3


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


def save_checkpoint(
    folder: Path,
    model: LanguageModel,
    progress: Progress,
    *,
    tokenizer_sha256: str,
    run: str,
    state: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint in the place of the one before; `state` is what resuming needs besides the weights.

    Raises:
        OSError: the disk is full, or refuses for another reason; the checkpoint before is still there.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with replace_folder(folder) as temporary, _errors_of_the_system():
        save_file(weights, temporary / "model.safetensors")
        follow_umask(temporary / "model.safetensors")
        if state is not None:
            with (temporary / "state.pt").open("wb") as handle:  # torch's own writer keeps no reason why it failed
                torch.save(state, handle)
        meta = {
            "format_version": FORMAT_VERSION,
            "run": run,
            "spec": model.spec.to_dict(),
            # A loss of weights that have grown too large is no number of JSON; `state.pt` keeps it.
            "progress": {key: value if key == "stage" else finite(value) for key, value in asdict(progress).items()},
            "tokenizer_sha256": tokenizer_sha256,
            "sha256": {file.name: sha256_of(file) for file in sorted(temporary.iterdir())},
        }
        write_json(temporary / "meta.json", meta | {"meta_sha256": hash_of(meta)})


def hash_of(meta: dict[str, Any]) -> str:
    """Hash what meta.json says, all but its own hash."""
    said = {key: value for key, value in meta.items() if key != "meta_sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@contextmanager
def _errors_of_the_system() -> Iterator[None]:
    """Raise as OSError what safetensors and torch make of one."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
    except RuntimeError as error:
        raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def read_checkpoint(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint is. Raises UserError where it is none, or of another format."""
    settle_folder(folder)
    file = folder / "meta.json"
    meta = read_json(file)
    try:
        if meta["format_version"] != FORMAT_VERSION:
            found = meta["format_version"]
            raise UserError(f"{folder}: checkpoint format {found}, this program reads {FORMAT_VERSION}")
        if meta["meta_sha256"] != hash_of(meta):
            raise ValueError("damaged: its SHA-256 is not the one that it holds")
        spec, progress = ModelSpec.from_dict(meta["spec"]), Progress(**meta["progress"])
        info = CheckpointInfo(folder, spec, progress, meta["tokenizer_sha256"], meta["run"], dict(meta["sha256"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: not the description of a checkpoint ({error})") from None
    if unknown := [kind for kind in spec.blocks if kind not in kind_names()]:
        raise UserError(f"{file}: a model with {unknown[0]!r} blocks, which src/model/blocks has none of here")
    weights = folder / "model.safetensors"
    needed = BYTES_PER_FLOAT * model_cost(spec, 1).total_params
    if weights.exists() and weights.stat().st_size < needed:  # found before a model of any size is built
        raise UserError(f"{weights}: cut off, or of another model ({weights.stat().st_size:,} bytes of {needed:,})")
    return info


def find_checkpoint(path: Path, kind: str) -> CheckpointInfo:
    """Read a checkpoint given by itself, or the last stage's `kind` (last or best) of a run directory."""
    set_aside = path.with_name(path.name + ".old") / "meta.json"
    if (path / "meta.json").exists() or (not path.exists() and set_aside.exists()):
        return read_checkpoint(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; give a run directory, as the last line of a run names it")
    found = [stage / kind for stage in _stage_folders(path) if has_checkpoint(stage / kind)]
    if not found:
        raise UserError(f"{path}: no checkpoint in it; give a run directory that has trained, or a checkpoint folder")
    return read_checkpoint(found[-1])


def _stage_folders(run_dir: Path) -> list[Path]:
    """List the folders of a run's stages in the order of the stages: times of files do not survive a copy."""
    config, folder = run_dir / "config.yaml", run_dir / "checkpoints"
    if not config.exists():
        return sorted(folder.glob("*"))
    return [folder / stage for stage in read_yaml(config, "stage")["stage"]["stages"]]


def has_checkpoint(folder: Path) -> bool:
    """Tell whether there is a checkpoint, putting back what a crash left half-renamed."""
    settle_folder(folder)
    return (folder / "meta.json").exists()


def _whole(info: CheckpointInfo, name: str) -> Path:
    """Return a file of a checkpoint as it was written. Raises UserError where it is missing or has changed."""
    file = info.folder / name
    try:
        if sha256_of(file) == info.sha256.get(name):
            return file
        problem = "damaged: its SHA-256 is not that of meta.json"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
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
