"""One optimizer step: gradients of a whole global batch, a clip, an update, and no waiting for the device."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.language_model import LanguageModel, ModelOutput
from src.runtime.device import Device

LOGITS_AT_ONCE = 1 << 22
"""16 MB of them in fp32: small enough to stay out of the way, large enough for full matrix speed."""


class StepOutput(NamedTuple):
    """All on the device, so that nobody waits for it unless the step is logged."""

    loss: Tensor
    """Mean nats per token, without auxiliary losses."""
    grad_norm: Tensor
    """Before clipping."""
    skipped: Tensor
    """1.0 where the gradient was not finite and the weights stayed as they were, else 0.0."""
    expert_load: Tensor | None


def token_loss(model: LanguageModel, output: ModelOutput, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of targets (B, T), computed in chunks so that all logits never exist at once."""
    chunk = max(64, LOGITS_AT_ONCE // model.spec.vocab_size)
    return F.linear_cross_entropy(
        output.hidden.flatten(0, 1),
        model.head.weight,
        targets.flatten(),
        options=nn.LinearCrossEntropyOptions(batch_chunk_size=chunk),
    )


def train_step(
    model: LanguageModel,
    forward: Any,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Tensor,
    *,
    micro_batch_size: int,
    grad_clip: float,
    device: Device,
) -> StepOutput:
    """Update the weights once from batch (global_batch_size, T + 1).

    `forward` is the model, or its compiled form. Where the gradient is not finite, the optimizer leaves weights and
    state alone; that is decided on the device.
    """
    loss = torch.zeros((), device=batch.device)
    loads: list[Tensor] = []
    for micro_batch in batch.split(micro_batch_size):
        share = len(micro_batch) / len(batch)
        with device.autocast():
            output: ModelOutput = forward(micro_batch[:, :-1])
            micro_loss = token_loss(model, output, micro_batch[:, 1:])
        objective = micro_loss if output.aux_loss is None else micro_loss + output.aux_loss
        scaler.scale(objective * share).backward()
        loss += micro_loss.detach() * share
        if output.expert_load is not None:
            loads.append(output.expert_load)

    scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip or torch.inf)
    skipped = (~torch.isfinite(grad_norm)).float()
    if not scaler.is_enabled():
        # The fused kernels look here, as they do under a scaler, and skip the update.
        optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return StepOutput(loss, grad_norm, skipped, torch.stack(loads).sum(dim=0) if loads else None)
