"""Loss and accuracy of the answers of a synthetic task, as a whole and by distance."""

from typing import Any, NamedTuple

import numpy as np
import torch

from src.data.task_data import HeldOutSet, rows_of
from src.evaluation.position_loss import average_by_range, predict_targets
from src.model.language_model import LanguageModel
from src.runtime.device import Device


class AnswerScores(NamedTuple):
    """How well a model answers the examples of one difficulty."""

    loss: float
    """Nats per answer."""
    accuracy: float
    """Share of answers that are the most probable token."""
    n: int
    """Answers."""
    distances: np.ndarray
    """Of each answer: (n,)."""
    hits: np.ndarray
    """Whether it is right: (n,)."""


def score_answers(model: LanguageModel, held_out: HeldOutSet, *, device: Device) -> AnswerScores:
    """Score the answers of a held-out set; several processes share its examples and return the same."""
    rows, group = rows_of(held_out.examples), device.process_group
    own = group.rows_of(len(rows))
    found = torch.zeros(2, len(rows), held_out.length, dtype=torch.float32)
    nats, hits = predict_targets(model, rows[own], device=device)
    found[0, own], found[1, own] = torch.from_numpy(nats).float(), torch.from_numpy(hits).float()
    if not group.is_rank_zero:
        found[:, :1] = 0  # rank 0 has it
    group.all_reduce_sum([found])
    asked = held_out.examples.targets >= 0
    nats, hits = found.double().numpy()[:, asked]
    return AnswerScores(
        float(nats.mean()), float(hits.mean()), int(asked.sum()), held_out.examples.distances[asked], hits
    )


def accuracy_by_distance(scores: list[AnswerScores]) -> dict[str, list[Any]]:
    """Return the accuracy in ranges of distance, over all held-out sets: `to`, `n` and `accuracy` of each range."""
    distances, hits = (np.concatenate(parts) for parts in zip(*((s.distances, s.hits) for s in scores), strict=True))
    is_known = distances > 0
    return average_by_range(distances[is_known], accuracy=hits[is_known])
