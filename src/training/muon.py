"""Muon (Jordan et al., 2024; scaled as in Liu et al., 2025, arXiv 2502.16982) for matrices, AdamW for other parameters.

    m <- mu m + (1 - mu) g        u = NS((1 - mu) g + mu m)        W <- (1 - lr wd) W - 0.2 sqrt(max(rows, cols)) lr u

NS replaces a matrix by one with the same singular vectors and singular values near 1. The factor 0.2 sqrt(...) makes
the update as large as AdamW's, so that both take the same learning rate. The formula is that of `torch.optim.Muon`, and
tests compare both. Differences: it iterates in fp32 where bf16 is slow, batches matrices of the same shape (also the
three-dimensional experts), updates the parts of packed projections (q, k and v) separately, and changes nothing if the
gradient is not finite, without synchronizing with the device.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from src.runtime.device import fast_dtype
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from src.training.optimizer_base import AdamW, Optimizer
from src.training.parallel import gather_part, is_divided, local, part_like

NS_STEPS = 5
NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NS_EPS = 1e-7


def orthogonalize(matrices: Tensor) -> Tensor:
    """Move all singular values of matrices (..., rows, cols) towards 1 by the quintic Newton-Schulz iteration."""
    a, b, c = NS_COEFFICIENTS
    x = matrices.to(fast_dtype(matrices)).reshape(-1, *matrices.shape[-2:])
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=NS_EPS)
    for _ in range(NS_STEPS):  # a x + (b gram + c gram gram) x, fused into the products
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)


class Muon(Optimizer):
    """Muon for its first parameter group, fused AdamW for the others; one state and one list of groups."""

    _step_supports_amp_scaling = True  # a gradient scaler sets `found_inf` instead of skipping the step

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[dict[str, Any]],
        packed: dict[nn.Parameter, tuple[int, ...]] | None = None,
        *,
        momentum: float,
        weight_decay: float,
        process_group: ProcessGroup = SINGLE_PROCESS,
        **adamw: Any,
    ) -> None:
        """packed: row counts of the projections in matrices that stack several. process_group: holds whole matrices."""
        self.packed = packed or {}
        self.process_group = process_group
        self.adamw = AdamW(others, fused=True, **adamw)
        super().__init__(
            [{"params": matrices, "weight_decay": weight_decay, "momentum": momentum}], {"lr": adamw["lr"]}
        )
        self.param_groups += self.adamw.param_groups
        self._share_state()

    def _share_state(self) -> None:
        """Let AdamW use this optimizer's state and groups, so that saving and loading see one optimizer."""
        self.adamw.state = self.state
        self.adamw.param_groups = self.param_groups[1:]

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self._share_state()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        found_inf = getattr(self, "found_inf", None)
        self.adamw.found_inf = found_inf  # pyright: ignore[reportAttributeAccessIssue]
        self.adamw.grad_scale = getattr(self, "grad_scale", None)  # pyright: ignore[reportAttributeAccessIssue]
        self.adamw.step()
        group = self.param_groups[0]
        by_shape: defaultdict[torch.Size, list[tuple[Tensor, ...]]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                rows: tuple[int, ...] = self.packed.get(parameter, tuple(parameter.shape[-2:-1]))
                held = tuple(local(each) for each in (parameter, parameter.grad, state["momentum"]))
                if is_divided(parameter):
                    self._update_shard(parameter, rows, *held, group=group, found_inf=found_inf)
                    continue
                for one in zip(*(each.split(rows, dim=-2) for each in held), strict=True):
                    by_shape[one[0].shape].append(one)
        for same in by_shape.values():
            self._update(*zip(*same, strict=True), group=group, found_inf=found_inf)

    def _update(
        self,
        weights: tuple[Tensor, ...],
        gradients: tuple[Tensor, ...],
        buffers: tuple[Tensor, ...],
        *,
        group: dict[str, Any],
        found_inf: Tensor | None,
    ) -> None:
        """Update projections of the same shape."""
        keep = _keep(found_inf, weights[0])
        nesterov = torch.stack([_nesterov(*pair, group, keep) for pair in zip(gradients, buffers, strict=True)])
        updates = self._divided_update(nesterov, group, keep)
        for weight, update in zip(weights, updates.unbind(), strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"] * keep).add_(update)

    def _divided_update(self, nesterov: Tensor, group: dict[str, Any], keep: Tensor) -> Tensor:
        """Return what is added to weights (n, ..., rows, cols), of which each process iterates on an equal share."""
        if self.process_group.size == 1:
            return _scaled_update(nesterov, group, keep)
        own = slice(self.process_group.rank, None, self.process_group.size)
        updates = torch.zeros_like(nesterov)
        updates[own] = _scaled_update(nesterov[own], group, keep)
        self.process_group.all_reduce_sum([updates])  # exact, as the others have zeros there
        return updates

    def _update_shard(
        self,
        parameter: nn.Parameter,
        rows: tuple[int, ...],
        weight: Tensor,
        gradient: Tensor,
        buffer: Tensor,
        *,
        group: dict[str, Any],
        found_inf: Tensor | None,
    ) -> None:
        """Update this process's part of a matrix: the iteration needs the whole, one matrix at a time for memory."""
        keep = _keep(found_inf, weight)
        nesterov = gather_part(_nesterov(gradient, buffer, group, keep), parameter)
        update = torch.cat([_scaled_update(each, group, keep) for each in nesterov.split(rows, dim=-2)], dim=-2)
        weight.mul_(1 - group["lr"] * group["weight_decay"] * keep).add_(local(part_like(update, parameter)))


def _keep(found_inf: Tensor | None, like: Tensor) -> Tensor:
    """Return 1.0, or 0.0 for a skipped step: with it, the updates change nothing, as long as they are finite."""
    return torch.ones((), device=like.device) if found_inf is None else 1 - found_inf.to(torch.float32)


def _nesterov(gradient: Tensor, buffer: Tensor, group: dict[str, Any], keep: Tensor) -> Tensor:
    """Update the momentum and return (1 - mu) g + mu m."""
    gradient = torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
    buffer.lerp_(gradient, (1 - group["momentum"]) * keep)
    return gradient.lerp(buffer, group["momentum"])


def _scaled_update(nesterov: Tensor, group: dict[str, Any], keep: Tensor) -> Tensor:
    """Return what is added to weights (..., rows, cols)."""
    return orthogonalize(nesterov) * (-0.2 * max(nesterov.shape[-2:]) ** 0.5 * group["lr"] * keep)
