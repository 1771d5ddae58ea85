"""What a model makes of its context: loss by how much of it there is, and recall by how far back a mention stands.

Both are measured on the windows of the validation loss. Where the text is generated, two things are exact:

- The floor of each token: its bits under the grammar, given the document up to there. A window cuts into a document, so
  the grammar knows more than the model does, and most so at the first positions: there the distance to the floor is
  that of a short context too. No model is below the floor on average.
- Recalls: names that the text leaves no choice about, because they were drawn before (`Recall` of the parser). Whoever
  finds the mention loses nothing there. `hidden` are those whose last mention lies before the window: what the same
  names cost without it.

Positions and distances are in tokens, in ranges that end at powers of two.
"""

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from src.data.preparation.token_annotations import Annotations
from src.model.cost.memory_estimate import loss_chunk
from src.model.language_model import LanguageModel, number_documents
from src.runtime.device import Device

TOKENS_AT_ONCE = 2048


@torch.no_grad()
def predict_targets(
    model: LanguageModel, windows: np.ndarray, *, device: Device, eot_id: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the loss of each target in nats, and whether it is the likeliest token: (n, T) each, for (n, T + 1) ids.

    A few windows at a time and in chunks of logits, in fp32, so that memory stays small. eot_id: as in
    `evaluate_windows`.
    """
    was_training = model.training
    model.eval()
    n, length = len(windows), windows.shape[1] - 1
    nats, hits = np.empty(n * length, dtype=np.float64), np.empty(n * length, dtype=np.bool_)
    weight = model.head.weight.float()
    chunk, at_once = loss_chunk(len(weight)), max(1, TOKENS_AT_ONCE // length)
    for first in range(0, n, at_once):
        tokens = device.tensor(windows[first : first + at_once])
        inputs, targets = tokens[:, :-1], tokens[:, 1:].flatten()
        documents = None if eot_id is None else number_documents(inputs, eot_id)
        with device.autocast():
            hidden = model(inputs, documents=documents).hidden.flatten(0, 1)
        for start in range(0, len(hidden), chunk):
            rows = slice(start, min(start + chunk, len(hidden)))
            logits = F.linear(hidden[rows].float(), weight)
            place = slice(first * length + rows.start, first * length + rows.stop)
            nats[place] = F.cross_entropy(logits, targets[rows], reduction="none").cpu()
            hits[place] = (logits.argmax(dim=-1) == targets[rows]).cpu()
    model.train(was_training)
    return nats.reshape(n, length), hits.reshape(n, length)


def describe_context(
    nats: np.ndarray, hits: np.ndarray, windows: np.ndarray, byte_lengths: np.ndarray, known: Annotations | None
) -> dict[str, Any]:
    """Sum up what `predict_targets` found; targets of text that is none of the grammar's count for nothing."""
    counted = np.ones(nats.shape, dtype=bool) if known is None else np.isfinite(known.bits)
    places = np.broadcast_to(np.arange(1, nats.shape[1] + 1), nats.shape)[counted]
    if known is None:
        return {"positions": _by_range(places, loss=nats[counted])}
    floor = known.bits[counted] * math.log(2)
    above = (nats[counted].sum() - floor.sum()) / math.log(2) / max(1, byte_lengths[windows[:, 1:]][counted].sum())
    return {
        "above_floor_bits_per_byte": _number(above),
        "unparsed_documents": known.unparsed,
        "positions": _by_range(places, loss=nats[counted], floor=floor),
        **_recall(nats, hits, known.recalls),
    }


def _recall(nats: np.ndarray, hits: np.ndarray, recalls: np.ndarray) -> dict[str, Any]:
    """Return loss, in nats per token, and accuracy, the share of names of which every token is the likeliest one."""
    loss = np.array([nats[window, first:end].mean() for window, first, end, _ in recalls])
    accuracy = np.array([hits[window, first:end].all() for window, first, end, _ in recalls], dtype=float)
    distances = recalls[:, 3]
    seen = distances > 0
    hidden = _by_range(np.ones(int((~seen).sum())), loss=loss[~seen], accuracy=accuracy[~seen])
    return {
        "recall": _by_range(distances[seen], loss=loss[seen], accuracy=accuracy[seen]),
        "hidden": {key: value[0] for key, value in hidden.items() if value and key != "to"},
    }


def _by_range(places: np.ndarray, **values: np.ndarray) -> dict[str, list[Any]]:
    """Return means over the places 1, 2, 3 to 4, 5 to 8 and so on, as far as there are any; `to` ends each range."""
    exponents = np.frexp(places - 1)[1]
    found = np.unique(exponents)
    of_range = [exponents == exponent for exponent in found]
    means = {name: [_number(each[chosen].mean()) for chosen in of_range] for name, each in values.items()}
    return {"to": [2 ** int(exponent) for exponent in found], "n": [int(each.sum()) for each in of_range], **means}


def _number(value: float) -> float | None:
    """Round to what is worth keeping; no number where the model broke."""
    return round(float(value), 6) if math.isfinite(value) else None
