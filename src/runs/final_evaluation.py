"""Evaluate the last checkpoint of each finished stage of a run: evaluation.json.

A run ends with it, and `python -m src.evaluate` repeats it, also with other settings. The text is the test split, on
which nothing is selected. Stages with an evaluation under the same settings are skipped. Several processes share the
measurements; each has the whole model.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from src.config.schema import TrainConfig
from src.data.dataset import Data, PreparedData
from src.model.build import build_model
from src.runs.evaluation_file import EVALUATION, Evaluation, empty_evaluation, finished_stages, known_stages
from src.runs.task_evaluation import evaluate_task
from src.runs.text_evaluation import evaluate_text
from src.runtime.device import Device
from src.runtime.log import LogFunction
from src.runtime.records import find_record, write_record
from src.training.checkpoint import load_weights, read_checkpoint


def evaluate_run(
    config: TrainConfig,
    data: Data,
    folder: Path,
    device: Device,
    log_info: LogFunction,
    *,
    raise_if_stopped: Callable[[], None] = lambda: None,
    rerun: bool = False,
) -> dict[str, Any]:
    """Evaluate each finished stage of the run in `folder`, and return the content of its evaluation.json.

    raise_if_stopped: called between measurements, to raise Interrupted. rerun: repeat existing evaluations.
    Raises: UserError if no stage is finished.
    """
    path, process_group = folder / EVALUATION, device.process_group
    result = empty_evaluation(config)
    known, before = process_group.on_rank_zero(
        lambda: ({} if rerun else known_stages(path, result, log_info), find_record(path, Evaluation))
    )
    for name in process_group.on_rank_zero(lambda: finished_stages(config, folder)):
        info = read_checkpoint(folder / "checkpoints" / name / "last")
        weights = info.sha256["model.safetensors"]
        if name in known and known[name]["weights_sha256"] == weights:
            result["stages"][name] = known[name]
            continue
        process_group.map(lambda _: raise_if_stopped(), range(process_group.size))
        log_info(f"Evaluating the {name} stage")
        model = build_model(info.spec, seed=0)
        load_weights(info, model)
        model.to(device.kind).eval()
        if isinstance(data, PreparedData):
            entry = evaluate_text(config, data, folder, name, device, model, log_info, raise_if_stopped)
        else:
            # The processes share each set of examples, so all of them have to stop at the same one.
            check = raise_if_stopped if process_group.size == 1 else lambda: None
            entry = evaluate_task(config, data, device, model, check) | {"samples": []}
        earlier = before["stages"].get(name) if before else None
        if earlier and earlier["weights_sha256"] == weights and "tasks" in earlier:  # they have no settings
            entry["tasks"] = earlier["tasks"]
        result["stages"][name] = {"weights_sha256": weights, **entry}
        process_group.on_rank_zero(lambda: write_record(path, result))
    return result
