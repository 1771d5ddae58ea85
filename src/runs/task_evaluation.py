"""Evaluate a model on the test examples of a synthetic task, by length, difficulty and distance."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

from src.config.schema import TASK, TrainConfig
from src.data.task_data import TaskData
from src.evaluation.answers import accuracy_by_distance, score_answers
from src.model.language_model import LanguageModel
from src.runtime.device import Device


def evaluate_task(
    config: TrainConfig,
    data: TaskData,
    device: Device,
    model: LanguageModel,
    raise_if_stopped: Callable[[], None],
) -> dict[str, Any]:
    """Return the measurements of a stage.

    The loss and accuracy of the test are means over its difficulties, each of which counts the same.
    """
    sets = [*data.held_out_sets("test", config.training.seq_len, config.training.test_sequences)]
    scores = []
    for each in sets:
        raise_if_stopped()
        scores.append(score_answers(model, each, device=device))
    return {
        "corpus": TASK,
        "test": {
            TASK: {
                "loss": fmean(score.loss for score in scores),
                "bits_per_byte": None,
                "accuracy": fmean(score.accuracy for score in scores),
                "tokens": sum(score.n for score in scores),
            }
        },
        "references": data.references(TASK, "test"),
        "answers": {
            "difficulty": data.difficulty,
            "length": [each.length for each in sets],
            "value": [each.difficulty for each in sets],
            "n": [score.n for score in scores],
            "loss": [round(score.loss, 6) for score in scores],
            "accuracy": [round(score.accuracy, 6) for score in scores],
        },
        "distance": accuracy_by_distance(scores),
    }
