"""One optimizer step: gradients of a whole global batch, a clip, an update, and no waiting for the device."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.model.dropout import Dropout
from src.model.language_model import LanguageModel, ModelOutput, number_documents, token_loss
from src.runtime.device import Device


class StepOutput(NamedTuple):
    """All on the device, so that nobody waits for it unless the step is logged."""

    loss: Tensor
    """Mean nats per token, without auxiliary losses."""
    grad_norm: Tensor
    """Before clipping."""
    skipped: Tensor
    """1.0 where the gradient was not finite and the weights stayed as they were, else 0.0."""
    expert_load: Tensor | None
    """(number of MoE blocks, E): choices of each expert in the whole batch."""
    router_z: Tensor | None
    """(number of MoE blocks,): mean over tokens of logsumexp(router logits)^2."""


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
    eot_id: int | None = None,
    dropout: float = 0.0,
    dropout_key: tuple[object, ...] = (),
) -> StepOutput:
    """Update the weights once from batch (B, T + 1): the global batch, or this process's rows of it.

    `forward` is the model, or its compiled form. Gradients are sums over all processes, losses means over the tokens of
    the global batch. Where the gradient is not finite, the optimizer leaves weights and state alone; that is decided on
    the device. What balances the experts (MoE) follows the load of the whole batch. eot_id: the token that begins a
    document, where documents are masked. dropout: the share to drop; the key of the step and the row of a sequence in
    the global batch decide what.
    """
    loss = torch.zeros((), device=batch.device)
    loads: list[Tensor] = []
    router_zs: list[Tensor] = []
    row = device.process_group.rank_slice(len(batch) * device.process_group.size).start
    for micro_batch in batch.split(micro_batch_size):
        rows = range(row, row + len(micro_batch))
        row = rows.stop
        model.dropout = Dropout(dropout, dropout_key, rows, batch.device.type) if dropout else None
        share = len(micro_batch) / (len(batch) * device.process_group.size)
        with device.autocast():
            inputs = micro_batch[:, :-1]
            documents = None if eot_id is None else number_documents(inputs, eot_id)
            output: ModelOutput = forward(inputs, documents=documents)
            micro_loss = token_loss(model, output, micro_batch[:, 1:])
        objective = micro_loss if output.aux_loss is None else micro_loss + output.aux_loss
        scaler.scale(objective * share).backward()
        loss += micro_loss.detach() * share
        if output.expert_load is not None:
            loads.append(output.expert_load)
        if output.router_z is not None:
            router_zs.append(output.router_z * share)

    model.dropout = None
    device.process_group.all_reduce_sum(
        parameter.grad for parameter in model.parameters() if parameter.grad is not None
    )
    scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), grad_clip or torch.inf)
    skipped = (~torch.isfinite(grad_norm)).float()
    if not scaler.is_enabled():
        # The fused kernels look here, as they do under a scaler, and skip the update.
        optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    expert_load, router_z = (torch.stack(each).sum(dim=0) if each else None for each in (loads, router_zs))
    device.process_group.all_reduce_sum([loss] if router_z is None else [loss, router_z])
    if expert_load is not None:
        device.process_group.all_reduce_sum([expert_load])
        model.update_routers(expert_load, taken=1 - skipped)
    return StepOutput(loss, grad_norm, skipped, expert_load, router_z)
