"""Convert runs to folders of Hugging Face's transformers and back, and to GGUF files.

An imported folder has the layout of a run: `checkpoints/<stage>/{best,last}`, the tokenizer and config.yaml, which is
that of the run if the export recorded it, and summary.json if it recorded that. It can be generated from and trained on
(`init_from`), but not resumed: the optimizer's state is not exported.
"""

import errno
import filecmp
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer, normalizers
from torch import Tensor

from src.cli.compose import build_run_config, check_has_text, read_run_config
from src.config.comparability import with_current_names
from src.config.schema import ModelSpec, SamplingConfig, TrainConfig, UserError
from src.data.tokenizer.bpe import TOKENIZER_CONFIG, load_tokenizer, read_eos_token, tokenizer_config
from src.huggingface import RECORD, mapping_of, read_folder, write_folder
from src.huggingface.card_metadata import NOTHING_STATED, Stated
from src.huggingface.gguf_file import format_of, modelfile, write_gguf
from src.huggingface.imported_config import IMPORTED, imported_config
from src.huggingface.model_card import model_card
from src.huggingface.tensor_file import TensorFile, build_empty_model, state_shapes
from src.model.build import build_model
from src.runs.evaluation_file import EVALUATION, Evaluation
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
from src.runtime.log import replace_control_chars
from src.runtime.records import find_record, is_plain_name, write_record
from src.runtime.run_lock import is_run_locked
from src.training.checkpoint import (
    REMEDY,
    WHOLE,
    CheckpointInfo,
    find_checkpoint,
    load_weights,
    save_checkpoint,
    verified_file,
)
from src.training.progress import Progress

MAX_COUNTER = 2**63
"""Largest value of a counter."""
MAX_NAME_LENGTH = 255


def export_run(run: Path, out: Path, dtype: str = "f32", stated: Stated = NOTHING_STATED) -> None:
    """Write the best checkpoint of a run's last stage as a folder that transformers loads.

    dtype: type of the weights. stated: what the card says beyond the run's own figures. Raises: UserError if the run
    cannot be read or no class computes the same; FileExistsError as `create_folder`.
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
    evaluated = _read_evaluated(trained.folder, info)
    card = model_card(info.spec, mapping, out.name, record | {"summary": shown, "evaluated": evaluated}, dtype, stated)
    given = trained.tokenizer, trained.sampling, record, card, trained.eot, dtype
    with create_folder(out) as temporary, open_weights(info) as weights:
        write_folder(temporary, info.spec, weights, *given)


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
        given = trained.tokenizer, trained.eot, dtype, info.run or out.stem
        with open_weights(info) as weights:
            notes = write_gguf(temporary, info.spec, weights, *given)
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
    """What an export needs of a run, besides the weights."""

    folder: Path
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
    config = _read_config(folder / "config.yaml")
    sampling = config.samples if config else SamplingConfig()
    return Trained(folder, tokenizer, eot, config, sampling)


@contextmanager
def open_weights(info: CheckpointInfo) -> Iterator[Mapping[str, Tensor]]:
    """Yield the weights of a checkpoint; those of one file are read one by one, as they are looked up.

    Raises: UserError if a file is damaged or does not match.
    """
    if not info.is_whole:
        model = build_model(info.spec, seed=0)
        load_weights(info, model)
        yield model.state_dict()
        return
    path = verified_file(info, WHOLE)
    with path.open("rb") as handle:
        try:
            weights = TensorFile(handle)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise UserError(f"{path}: cannot be read as safetensors; {REMEDY}") from None
        if weights.shapes != state_shapes(info.spec):
            raise UserError(f"{path}: holds other tensors than this model has; {REMEDY}")
        yield weights


def _read_evaluated(run: Path, info: CheckpointInfo) -> dict[str, Any] | None:
    """Read the evaluation of these weights on test text, if there is one."""
    evaluation = find_record(run / EVALUATION, Evaluation)
    stage = evaluation["stages"].get(info.progress.stage) if evaluation else None
    return dict(stage) if stage and stage["weights_sha256"] == info.weights_sha256 else None


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
    if found.record is None:
        found = found._replace(tokenizer=_as_prepared(found.tokenizer))
    sha256 = hashlib.sha256(found.tokenizer).hexdigest()
    record = found.record or {"run": source.name, "tokenizer_sha256": sha256, "progress": {"stage": IMPORTED}}
    recorded = read_record(record, found.spec, source / RECORD)
    if found.record is None:
        recorded = recorded._replace(config=imported_config(found.spec))
    if record.get("tokenizer_sha256") != sha256:
        raise UserError(f"{source / 'tokenizer.json'}: not the tokenizer that these weights were trained with")
    model = build_empty_model(found.spec)
    model.load_state_dict(found.weights, assign=True)
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


def _as_prepared(tokenizer: bytes) -> bytes:
    """Return a tokenizer.json as `src.prepare` writes it, so that text prepared with it has the same tokenizer.

    NFC, which the tokenizers of Qwen and GPT-NeoX apply, is left out: with it, a text does not come back as it was. It
    changes no token of a text that is in this form already, as nearly all are.
    """
    opened = Tokenizer.from_buffer(tokenizer)
    opened.no_truncation()
    opened.no_padding()
    if isinstance(opened.normalizer, normalizers.NFC):
        opened.normalizer = None  # pyright: ignore[reportAttributeAccessIssue]
    return opened.to_str(pretty=True).encode()


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
