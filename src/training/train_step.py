"""The state of training, and one optimizer step: gradients of a whole global batch, clipping, update.

A step does not synchronize with the device.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from src.model.dropout import Dropout
from src.model.language_model import LanguageModel, ModelOutput, document_ids, split_rows, token_loss
from src.runtime.device import Device
from src.training.lean_adamw import LeanAdamW
from src.training.parallel import begin_micro_batch, local, part_like, whole
from src.training.progress import Progress


@dataclass
class TrainState:
    """All state that training changes."""

    model: LanguageModel
    forward: Any
    """The model, or its compiled form."""
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    progress: Progress
    skipped_steps: Tensor
    """Counted on the device."""
    bad_steps: Tensor
    """Those skipped in a row, counted on the device."""

    @classmethod
    def begin(
        cls, stage: str, model: LanguageModel, optimizer: torch.optim.Optimizer, device: Device, forward: Any = None
    ) -> "TrainState":
        """Create the state of a new stage; `forward` is the model unless given."""
        forward = model if forward is None else forward
        model.set_load_shares(None)
        skipped, bad = (torch.zeros((), device=device.kind) for _ in range(2))
        return cls(model, forward, optimizer, device.build_scaler(), Progress(stage), skipped, bad)

    def count(self, skipped: Tensor) -> None:
        """Count a step: 1.0 if it was skipped, else 0.0."""
        self.skipped_steps += skipped
        self.bad_steps += 1
        self.bad_steps *= skipped

    def state_dict(self, *, has_optimizer: bool = True) -> dict[str, Any]:
        """Return what resuming needs besides the weights. has_optimizer: false where shards have the optimizer's."""
        self.progress.skipped_steps, self.progress.bad_steps = int(self.skipped_steps), int(self.bad_steps)
        plain = {
            "scaler": self.scaler.state_dict(),
            "progress": asdict(self.progress),
            "load_shares": self.model.load_shares(),
        }
        if not has_optimizer:
            return plain
        optimizer = self.optimizer.state_dict()
        # Where every process has the whole state, its parts are the whole.
        state = {i: {name: local(value) for name, value in each.items()} for i, each in optimizer["state"].items()}
        return {"optimizer": optimizer | {"state": state}} | plain

    def restore(self, saved: dict[str, Any]) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        state = {
            index: {name: part_like(value, parameters[index]) for name, value in each.items()}
            for index, each in saved["optimizer"]["state"].items()
        }
        self.optimizer.load_state_dict(saved["optimizer"] | {"state": state})
        self.scaler.load_state_dict(saved["scaler"])
        self.progress = Progress(**saved["progress"])
        self.model.set_load_shares(saved.get("load_shares"))  # missing in earlier versions
        self.skipped_steps.fill_(self.progress.skipped_steps)
        self.bad_steps.fill_(self.progress.bad_steps)


class StepOutput(NamedTuple):
    """All on the device, so that only logging a step synchronizes."""

    loss: Tensor
    """Mean nats per token, without auxiliary losses."""
    grad_norm: Tensor
    """Before clipping."""
    skipped: Tensor
    """1.0 if the gradient was not finite and the weights are unchanged, else 0.0."""
    expert_load: Tensor | None
    """(number of MoE blocks, E): how often each expert was chosen in the whole batch."""
    router_z: Tensor | None
    """(number of MoE blocks,): mean over tokens of logsumexp(router logits)^2."""


def train_step(
    state: TrainState,
    batch: Tensor,
    *,
    micro_batch_size: int,
    grad_clip: float,
    device: Device,
    eot_id: int | None = None,
    dropout: float = 0.0,
    embedding_dropout: float = 0.0,
    key: tuple[object, ...] = (),
) -> StepOutput:
    """Update the weights once from batch (B, T + 1) or (B, 2, T): the global batch, or this process's rows of it.

    Gradients are summed over all processes, losses are means over the tokens or answers of the global batch. If the
    gradient is not finite, the optimizer changes neither weights nor state; the device decides that. MoE balancing uses
    the load of the whole batch. eot_id: the token that begins a document, if documents are masked. dropout: the
    probability, and embedding_dropout that of the embedding where it is another. key: plain values that name the step;
    the random numbers of dropout (with the row of a sequence in the global batch) and of rounding are functions of it.
    """
    model, optimizer, scaler = state.model, state.optimizer, state.scaler
    loss = torch.zeros((), device=batch.device)
    loads: list[Tensor] = []
    router_zs: list[Tensor] = []
    row = device.process_group.rank_slice(len(batch) * device.process_group.size).start
    n_answers = _count_answers(batch, device)
    micro_batches = batch.split(micro_batch_size)
    for index, micro_batch in enumerate(micro_batches):
        begin_micro_batch(model, device, is_last=index == len(micro_batches) - 1)
        rows = range(row, row + len(micro_batch))
        row = rows.stop
        of_embedding = embedding_dropout or dropout
        model.dropout = Dropout(dropout, key, rows, batch.device.type, of_embedding) if of_embedding else None
        share = len(micro_batch) / (len(batch) * device.process_group.size)
        with device.autocast():
            inputs, targets = split_rows(micro_batch)
            output: ModelOutput = state.forward(inputs, documents=document_ids(inputs, eot_id))
            micro_loss = token_loss(model, output, targets, answers_only=n_answers is not None)
        of_answers = share if n_answers is None else (targets >= 0).sum() / n_answers
        objective = micro_loss * of_answers
        objective = objective if output.aux_loss is None else objective + output.aux_loss * share
        scaler.scale(objective).backward()
        loss += micro_loss.detach() * of_answers
        if output.expert_load is not None:
            loads.append(output.expert_load)
        if output.router_z is not None:
            router_zs.append(output.router_z * share)

    model.dropout = None
    scaler.unscale_(optimizer)
    grad_norm = clip_gradients(model, grad_clip)
    skipped = (~torch.isfinite(grad_norm)).float()
    if not scaler.is_enabled():
        # The fused kernels read this attribute, as under a scaler, and skip the update.
        optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(optimizer, LeanAdamW):
        optimizer.rounding_key = key
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    expert_load, router_z = (torch.stack(each).sum(dim=0) if each else None for each in (loads, router_zs))
    device.process_group.all_reduce_sum([loss] if router_z is None else [loss, router_z])
    if expert_load is not None:
        device.process_group.all_reduce_sum([expert_load])
        model.update_routers(expert_load, applied=1 - skipped)
    return StepOutput(loss, grad_norm, skipped, expert_load, router_z)


def _count_answers(batch: Tensor, device: Device) -> Tensor | None:
    """Count the answers of the global batch of a task; None for text, of which each row has as many targets."""
    if batch.ndim < 3:
        return None
    n_answers = (split_rows(batch)[1] >= 0).sum().float()
    device.process_group.all_reduce_sum([n_answers])
    return n_answers


def clip_gradients(model: LanguageModel, limit: float) -> Tensor:
    """Scale all gradients such that their common norm is at most the limit, if there is one; return it before that."""
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    if all(parameter.dtype == torch.float32 for parameter in parameters):
        return whole(nn.utils.clip_grad_norm_(parameters, limit or torch.inf))
    norms = [torch.linalg.vector_norm(p.grad, dtype=torch.float32) for p in parameters]  # in bf16 it has three digits
    norm = torch.linalg.vector_norm(torch.stack(norms))
    nn.utils.clip_grads_with_norm_(parameters, limit or torch.inf, norm)
    return norm
