"""Score the finished stages of a run on tasks of EleutherAI's lm-eval, without exporting it. Extra [lm-eval].

The results join those of `final_evaluation` in evaluation.json, with a value for each item, from which a report
computes intervals. Weights are in fp32, so that the numbers are those of lm-eval's own backend on the exported model.
"""

import json
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from src.config.schema import TrainConfig, UserError
from src.data.tokenizer.bpe import get_eot_id, load_tokenizer
from src.inference.lm_eval_model import as_lm_eval_model
from src.inference.text_model import TextModel
from src.model.build import build_model
from src.runs.evaluation_file import EVALUATION, Evaluation, TaskMetric, TaskResult, finished_stages
from src.runtime.atomic_files import finite_or_none
from src.runtime.device import Device
from src.runtime.errors import first_line
from src.runtime.log import LogFunction
from src.runtime.records import content_sha256, read_record, write_record
from src.training.checkpoint import load_weights, read_checkpoint

OWN_TASKS = Path(__file__).parents[1] / "evaluation" / "lm_eval_tasks"
INSTALL = "pip install -c constraints.txt -e '.[lm-eval]'"


class Tasks(NamedTuple):
    """Tasks that lm-eval has loaded, with their data."""

    loaded: dict[str, Any]
    """By the name asked for, what `TaskManager.load` returns; a group of lm-eval has several tasks."""
    sha256: dict[str, str]
    """Of the items of each, and the versions of its tasks."""
    version: str
    """Of lm-eval."""


def load_tasks(names: Sequence[str]) -> Tasks:
    """Load tasks by name, ours or lm-eval's own, which may download data.

    Raises: UserError if lm-eval is not installed, has no such task, or cannot load or run it.
    """
    if find_spec("lm_eval") is None:
        raise UserError(f"tasks={','.join(names)}: the extra lm-eval is not installed; {INSTALL}")
    own = sorted(path.stem for path in OWN_TASKS.glob("[a-z]*.yaml"))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tasks: Any = import_module("lm_eval.tasks")
    manager = tasks.TaskManager(include_path=str(OWN_TASKS), include_defaults=not {*names} <= {*own})
    for name in names:
        if name not in manager.all_tasks:
            raise UserError(
                f"tasks={name}: no task of lm-eval; ours are {', '.join(own)}; `lm-eval ls tasks` lists all"
            )
    loaded = {name: _load(manager, name) for name in names}
    sha256 = {name: _hash_items(found["tasks"]) for name, found in loaded.items()}
    return Tasks(loaded, sha256, str(import_module("lm_eval").__version__))


def _load(manager: Any, name: str) -> Any:
    try:
        loaded = manager.load([name])
    except Exception as error:  # its own, those of datasets, and those of the network have no common base
        raise UserError(f"tasks={name}: lm-eval cannot load it ({type(error).__name__}: {first_line(error)})") from None
    for task in loaded["tasks"].values():
        if getattr(task, "UNSAFE_CODE", False):
            raise UserError(f"tasks={name}: runs code that a model wrote, which this program never does; leave it out")
        if getattr(task, "MULTIMODAL", False):
            raise UserError(f"tasks={name}: asks about images; leave it out")
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234)  # the default of lm-eval's own command
    return loaded


def _hash_items(tasks: dict[str, Any]) -> str:
    utils: Any = import_module("lm_eval.utils")
    items = {
        name: [str(task.VERSION), json.dumps(list(task.eval_docs), default=utils.handle_non_serializable)]
        for name, task in tasks.items()
    }
    return content_sha256(items)


def measure_tasks(
    config: TrainConfig,
    folder: Path,
    device: Device,
    tasks: Tasks,
    log_info: LogFunction,
    *,
    raise_if_stopped: Callable[[], None] = lambda: None,
    rerun: bool = False,
) -> dict[str, Any]:
    """Score the last checkpoint of each finished stage that is no branch; return the content of its evaluation.json.

    The stages must have been evaluated by `evaluate_run`. Tasks that are there already are skipped unless `rerun`.
    """
    path = folder / EVALUATION
    result: dict[str, Any] = dict(read_record(path, Evaluation, "evaluate the run again with rerun=true"))
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    for stage in finished_stages(config, folder):
        known = result["stages"][stage].setdefault("tasks", {})
        missing = [name for name in tasks.loaded if rerun or not _is_known(known.get(name), tasks, name)]
        if config.stage.stages[stage].branch_of is not None or not missing:
            continue
        info = read_checkpoint(folder / "checkpoints" / stage / "last")
        model = build_model(info.spec, seed=0)
        load_weights(info, model)
        model.to(device.kind).eval()
        asked = as_lm_eval_model(TextModel(folder, model, tokenizer, get_eot_id(tokenizer, folder / "tokenizer.json")))
        for name in missing:
            raise_if_stopped()
            log_info(f"Scoring the {stage} stage on {name}")
            known[name] = _score(asked, tasks, name)
            write_record(path, result)
    return result


def _is_known(before: TaskResult | None, tasks: Tasks, name: str) -> bool:
    return before is not None and (before["lm_eval"], before["items_sha256"]) == (tasks.version, tasks.sha256[name])


def _score(model: Any, tasks: Tasks, name: str) -> TaskResult:
    """Score a model on one of the tasks; the items of a group are those of its tasks, one after the other."""
    found = import_module("lm_eval").evaluate(model, tasks.loaded[name], bootstrap_iters=0)
    samples = [sample for leaf in found["samples"].values() for sample in leaf]
    metrics: dict[str, TaskMetric] = {}
    for leaf, directions in found["higher_is_better"].items():
        for metric, is_higher_better in directions.items():
            items = [sample.get(metric) for sample in samples]
            is_by_item = all(isinstance(item, int | float) for item in items)
            single = next((value for key, value in found["results"][leaf].items() if key.split(",")[0] == metric), None)
            value = sum(items) / len(items) if is_by_item else single
            if is_by_item or len(found["results"]) == 1:
                metrics[metric] = {
                    "value": finite_or_none(value) if isinstance(value, int | float) else None,
                    "higher_is_better": is_higher_better is not False,
                    "items": [finite_or_none(round(float(item), 6)) for item in items] if is_by_item else [],
                }
    return {
        "lm_eval": tasks.version,
        "n": len(samples),
        "items_sha256": tasks.sha256[name],
        "metrics": metrics,
    }
