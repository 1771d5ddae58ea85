"""Convert runs to folders of Hugging Face's transformers and back, and to GGUF files.

An imported folder has the layout of a run: `checkpoints/<stage>/{best,last}`, the tokenizer, and, if the export
recorded them, the run's config.yaml and summary.json. It can be generated from and trained on (`init_from`), but not
resumed: the optimizer's state is not exported.
"""

import errno
import filecmp
import hashlib
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from src.cli.compose import build_run_config, check_has_text, read_run_config
from src.config.comparability import with_current_names
from src.config.schema import ModelSpec, SamplingConfig, TrainConfig, UserError
from src.data.tokenizer.bpe import TOKENIZER_CONFIG, load_tokenizer, read_eos_token, tokenizer_config
from src.huggingface import RECORD, mapping_of, read_folder, write_folder
from src.huggingface.gguf_file import format_of, modelfile, write_gguf
from src.huggingface.model_card import model_card
from src.model.build import build_model
from src.runs.summary import read_summary
from src.runtime.atomic_files import (
    apply_umask,
    create_folder,
    sync,
    temporary_path,
    write_bytes,
    write_json,
    write_text,
    write_yaml,
)
from src.runtime.errors import raise_os_errors
from src.runtime.log import replace_control_chars
from src.runtime.records import is_plain_name, write_record
from src.runtime.run_lock import is_run_locked
from src.training.checkpoint import CheckpointInfo, Progress, find_checkpoint, load_weights, save_checkpoint

MAX_COUNTER = 2**63
"""Largest value of a counter."""
MAX_NAME_LENGTH = 255
IMPORTED = "imported"
"""The stage of weights that come from elsewhere."""


def export_run(run: Path, out: Path) -> None:
    """Write the best checkpoint of a run's last stage as a folder that transformers loads.

    Raises: UserError if the run cannot be read or no class computes the same; FileExistsError as `create_folder`.
    """
    info = find_checkpoint(run, "best")
    check_has_text(info.folder.parents[2])
    try:
        mapping = mapping_of(info.spec)
    except UserError as error:
        raise UserError(f"{run}: no class of transformers computes the same; {error}") from None
    trained = _read_trained(info)
    folder, summary = trained.folder, _read_summary(trained.folder)
    record = {
        "run": info.run,
        "progress": asdict(info.progress),
        "tokenizer_sha256": info.tokenizer_sha256,
        "config": asdict(trained.config) if trained.config else None,
        "summary": summary,
    }
    shown = summary
    if summary is not None and summary.get("status") == "running" and not _is_training(folder):
        shown = summary | {"status": "interrupted (its process was killed)"}
    card = model_card(info.spec, mapping, out.name, record | {"summary": shown})
    with create_folder(out) as temporary:
        write_folder(
            temporary, info.spec, trained.weights, trained.tokenizer, trained.sampling, record, card, trained.eot
        )


def export_gguf(run: Path, out: Path, dtype: str) -> list[str]:
    """Write the best checkpoint of a run's last stage as a GGUF file, and a Modelfile for Ollama beside it.

    Returns: lines on what the file does not keep. Raises: UserError if the run cannot be read, llama.cpp has no such
    model or tokenizer, or the library is not installed; FileExistsError if another file is at `out`.
    """
    info = find_checkpoint(run, "best")
    check_has_text(info.folder.parents[2])
    try:
        format_of(info.spec)
    except UserError as error:
        raise UserError(f"{run}: {error}") from None
    trained = _read_trained(info)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(out)
    try:
        with raise_os_errors():
            notes = write_gguf(
                temporary, info.spec, trained.weights, trained.tokenizer, trained.eot, dtype, info.run or out.stem
            )
        if out.exists() and not filecmp.cmp(temporary, out, shallow=False):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
        apply_umask(temporary)
        sync(temporary)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    write_text(out.with_suffix(".Modelfile"), modelfile(out.name, trained.sampling, trained.eot))
    return notes


class Trained(NamedTuple):
    """What an export needs of a run."""

    folder: Path
    weights: dict[str, Tensor]
    tokenizer: bytes
    """The content of tokenizer.json."""
    eot: str
    config: TrainConfig | None
    sampling: SamplingConfig


def _read_trained(info: CheckpointInfo) -> Trained:
    folder = info.folder.parents[2]
    path = folder / "tokenizer.json"
    load_tokenizer(path)
    tokenizer, eot = path.read_bytes(), read_eos_token(path)
    model = build_model(info.spec, seed=0)
    load_weights(info, model)
    config = _read_config(folder / "config.yaml")
    sampling = config.samples if config else SamplingConfig()
    return Trained(folder, model.state_dict(), tokenizer, eot, config, sampling)


def _is_training(folder: Path) -> bool:
    try:
        return is_run_locked(folder)
    except OSError:  # nothing trains in a folder that is not writable
        return False


def _read_config(path: Path) -> TrainConfig | None:
    """Read a run's config.yaml without the paths of this machine."""
    if not path.exists():
        return None
    config = read_run_config(path)
    config.data.dir = Path(config.data.dir).name if config.data.dir else None
    config.data.language.paths, config.data.code.paths = [], []
    config.output_root, config.init_from = TrainConfig.output_root, None
    config.tokenizer.path = config.tokenizer.compare = None
    return config


def _read_summary(run: Path) -> dict[str, Any] | None:
    """Read a run's summary.json without its error and its command, which may contain paths of this machine."""
    summary = read_summary(run)
    return summary and {key: value for key, value in summary.items() if key != "command"} | {"error": None}


def import_run(source: Path, out: Path) -> None:
    """Write a folder of transformers as a run.

    Raises: UserError naming the file and its problem; FileExistsError as `create_folder`.
    """
    found = read_folder(source)
    sha256 = hashlib.sha256(found.tokenizer).hexdigest()
    record = found.record or {"run": source.name, "tokenizer_sha256": sha256, "progress": {"stage": IMPORTED}}
    recorded = read_record(record, found.spec, source / RECORD)
    if record.get("tokenizer_sha256") != sha256:
        raise UserError(f"{source / 'tokenizer.json'}: not the tokenizer that these weights were trained with")
    model = build_model(found.spec, seed=0)
    model.load_state_dict(found.weights)
    with create_folder(out) as temporary:
        for kind in ("best", "last"):
            folder = temporary / "checkpoints" / recorded.progress.stage / kind
            save_checkpoint(folder, model, recorded.progress, tokenizer_sha256=sha256, run=record["run"])
        write_bytes(temporary / "tokenizer.json", found.tokenizer)
        write_json(temporary / TOKENIZER_CONFIG, tokenizer_config(found.eot))
        if recorded.config is not None:
            write_yaml(temporary / "config.yaml", asdict(recorded.config))
        if recorded.summary is not None:
            write_record(temporary / "summary.json", recorded.summary)


class Recorded(NamedTuple):
    """The record of the original run in an export."""

    progress: Progress
    config: TrainConfig | None
    summary: dict[str, Any] | None


def read_record(record: dict[str, Any], spec: ModelSpec, path: Path) -> Recorded:
    """Check the record of an export. Raises UserError naming the file."""
    config, summary = record.get("config"), record.get("summary")
    try:
        json.dumps(record, allow_nan=False, indent=2)  # in the form in which it is written
    except (ValueError, RecursionError):
        raise UserError(f"{path}: holds numbers that are not finite, or is nested too deeply") from None
    run = record.get("run")
    if not isinstance(run, str) or replace_control_chars(run) != run or len(run) > MAX_NAME_LENGTH or "\n" in run:
        raise UserError(f"{path}: run: must be a name")
    if summary is not None and not (isinstance(summary, dict) and isinstance(summary.get("contract"), dict)):
        raise UserError(f"{path}: summary: not the summary of a run")
    if summary is not None:
        summary["contract"] = with_current_names(summary["contract"])
    progress = _read_progress(record.get("progress"), path)
    if config is None:
        return Recorded(progress, None, summary)
    typed = build_run_config(config, path)
    if progress.stage not in typed.stage.stages:
        raise UserError(f"{path}: stage={progress.stage}: not a stage of its config, {list(typed.stage.stages)!r:.200}")
    if typed.tokenizer.vocab_size != spec.vocab_size:
        raise UserError(f"{path}: tokenizer.vocab_size={typed.tokenizer.vocab_size}: the model has {spec.vocab_size}")
    return Recorded(progress, typed, summary)


def _read_progress(values: Any, path: Path) -> Progress:
    known = {item.name for item in fields(Progress)}
    if not isinstance(values, dict) or not isinstance(values.get("stage"), str) or not values.keys() <= known:
        raise UserError(f"{path}: progress: not the progress of a stage")
    for name, value in values.items():
        if name != "stage" and value is not None and not (type(value) in (int, float) and abs(value) <= MAX_COUNTER):
            raise UserError(f"{path}: progress.{name}={value!r:.40}: must be a number")
    if not is_plain_name(values["stage"]):
        raise UserError(f"{path}: stage={values['stage']!r:.60}: not usable as the name of a folder")
    return Progress(**values)
