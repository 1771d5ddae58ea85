"""Loss in nats per token, and in bits per byte of text, which no tokenizer can flatter."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from src.model.language_model import LanguageModel, number_documents, token_loss
from src.runtime.atomic_files import finite_or_none
from src.runtime.device import Device


class Likelihood(NamedTuple):
    """How well a model predicts some windows of text."""

    loss: float
    """Nats per token."""
    bits_per_byte: float
    tokens: int


@torch.no_grad()
def evaluate_windows(
    model: LanguageModel,
    windows: np.ndarray,
    byte_lengths: np.ndarray,
    *,
    batch_size: int,
    device: Device,
    eot_id: int | None = None,
) -> Likelihood:
    """Evaluate on windows (n, T + 1) of token ids; `byte_lengths` gives the bytes that each id stands for.

    The sum runs in a fixed order over single windows, so that the batch size and the number of processes, among which
    they are divided, decide speed alone. eot_id: the token that begins a document, where documents are masked.
    """
    was_training = model.training
    model.eval()
    losses, process_group = torch.zeros(len(windows)), device.process_group
    mine = range(process_group.rank, len(windows), process_group.size)
    for start in range(0, len(mine), batch_size):
        numbers = mine[start : start + batch_size]
        batch = device.tensor(windows[numbers])
        inputs = batch[:, :-1]
        documents = None if eot_id is None else number_documents(inputs, eot_id)
        with device.autocast():
            nats = token_loss(model, model(inputs, documents=documents), batch[:, 1:], reduction="none")
        losses[list(numbers)] = nats.view(len(batch), -1).sum(dim=1).cpu()
    process_group.all_reduce_sum([losses])
    model.train(was_training)
    return likelihood_of(float(losses.double().sum()), windows, byte_lengths)


def document_losses(
    tokens: np.ndarray, starts: Sequence[int], nats: np.ndarray, n_bytes: np.ndarray, eot_id: int
) -> dict[str, list[Any]]:
    """Sum up losses by document: where each begins in `tokens` (n_tokens,), its nats, and its bytes of text.

    starts: of the windows; nats, n_bytes: (n, T) of their targets. A target belongs to the document of the token before
    it, so that the token that ends a document is its last. A document that windows cut counts by what they have of it.
    """
    begins = np.flatnonzero(np.asarray(tokens) == eot_id)
    begins = begins if len(begins) and begins[0] == 0 else np.concatenate(([0], begins))
    places = np.asarray(starts)[:, None] + np.arange(nats.shape[1])
    number, document = np.unique(np.searchsorted(begins, places.ravel(), side="right") - 1, return_inverse=True)
    total = np.bincount(document, weights=nats.ravel())
    return {
        "first": begins[number].tolist(),
        "nats": [finite_or_none(round(value, 4)) for value in total.tolist()],
        "bytes": np.bincount(document, weights=n_bytes.ravel()).astype(int).tolist(),
    }


def likelihood_of(total: float, windows: np.ndarray, byte_lengths: np.ndarray) -> Likelihood:
    """Say what a total loss in nats over the targets of windows (n, T + 1) is worth."""
    targets = windows[:, 1:]
    return Likelihood(total / targets.size, total / math.log(2) / int(byte_lengths[targets].sum()), targets.size)
