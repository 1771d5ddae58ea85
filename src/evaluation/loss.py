"""Loss in nats per token, and in bits per byte of text, which does not depend on the tokenizer."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from src.model.language_model import LanguageModel, document_ids, token_loss
from src.runtime.atomic_files import finite_or_none
from src.runtime.device import Device


class TextLoss(NamedTuple):
    """The loss of a model on some windows of text."""

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
) -> TextLoss:
    """Evaluate windows (n, T + 1) of token ids; `byte_lengths` gives the bytes of each id.

    The sum runs over single windows in a fixed order, so it does not depend on the batch size or on the number of
    processes that share the windows. eot_id: the token that begins a document, if documents are masked.
    """
    was_training = model.training
    model.eval()
    losses, process_group = torch.zeros(len(windows)), device.process_group
    own = process_group.rows_of(len(windows))
    for start in range(0, len(own), batch_size):
        indices = own[start : start + batch_size]
        batch = device.tensor(windows[indices])
        inputs = batch[:, :-1]
        with device.autocast():
            output = model(inputs, documents=document_ids(inputs, eot_id))
            nats = token_loss(model, output, batch[:, 1:], reduction="none")
        losses[indices] = nats.view(len(batch), -1).sum(dim=1).cpu()
    if not process_group.is_rank_zero:
        losses[:1] = 0  # rank 0 has it
    process_group.all_reduce_sum([losses])
    model.train(was_training)
    return text_loss(float(losses.double().sum()), windows, byte_lengths)


def document_losses(
    tokens: np.ndarray, starts: Sequence[int], nats: np.ndarray, n_bytes: np.ndarray, eot_id: int
) -> dict[str, list[Any]]:
    """Sum losses by document: the position of its start in `tokens` (n_tokens,), its nats, and its bytes of text.

    starts: of the windows; nats, n_bytes: (n, T) of their targets. A target belongs to the document of the previous
    token, so the token that ends a document is its last target. Of a document that is cut by a window, only the part in
    the window counts.
    """
    begins = np.flatnonzero(np.asarray(tokens) == eot_id)
    begins = begins if len(begins) and begins[0] == 0 else np.concatenate(([0], begins))
    positions = np.asarray(starts)[:, None] + np.arange(nats.shape[1])
    number, document = np.unique(np.searchsorted(begins, positions.ravel(), side="right") - 1, return_inverse=True)
    total = np.bincount(document, weights=nats.ravel())
    return {
        "first": begins[number].tolist(),
        "nats": [finite_or_none(round(value, 4)) for value in total.tolist()],
        "bytes": np.bincount(document, weights=n_bytes.ravel()).astype(int).tolist(),
    }


def text_loss(total: float, windows: np.ndarray, byte_lengths: np.ndarray) -> TextLoss:
    """Convert a total loss in nats over the targets of windows (n, T + 1) to loss per token and per byte."""
    targets = windows[:, 1:]
    return TextLoss(total / targets.size, total / math.log(2) / int(byte_lengths[targets].sum()), targets.size)
