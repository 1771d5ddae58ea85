"""Several processes train one model: FSDP2 (`torch.distributed.fsdp.fully_shard`) around an unchanged model.

Each residual step, x + block(norm(x)), is one unit of communication; the root unit has the embedding, the norms and the
head. `runtime.parallel` decides what a process holds between steps:

replicate  every weight and its optimizer state; gradients are summed once a global batch. A mesh of (N, 1) processes.
shard      an N-th of each weight, gradient and optimizer state; a unit's weights are gathered when it is computed, and
           its gradients are summed and divided among the processes after each micro batch (ZeRO-3; Rajbhandari et
           al., 2020, arXiv 1910.02054). A mesh of (N,) processes.

Sums, not means, are taken: `train_step` weights each process's loss by its share of the batch. Parameters stay in the
type that they are stored in, as under autocast in one process: FSDP2's own policy for mixed precision would round
Mamba's `A_log` and the router too.

DistributedDataParallel is not used: it rebuilds its buckets after the first step, so three or more processes that
resume would sum in another order.

torch.distributed's modules take 1.5 s of processor time to import, so only several processes import them.
"""

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard, cast

from torch import Tensor, nn

from src.model.blocks.base import BlockOutput
from src.model.build import build_model
from src.model.language_model import LanguageModel
from src.runtime.device import Device
from src.runtime.distributed import ProcessGroup

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

ResidualStep = Callable[..., BlockOutput]


def parallelize(model: LanguageModel, device: Device, residual_step: ResidualStep | None = None) -> None:
    """Distribute a model over the processes of `device`, in place; its parameters become DTensors.

    A single process keeps its model as it is. residual_step: the compiled form of the model's method.
    """
    size = device.process_group.size
    if size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    shape, names = ((size,), ("shards",)) if device.is_sharded else ((size, 1), ("replicas", "shards"))
    mesh = init_device_mesh(device.kind, shape, mesh_dim_names=names)
    plain = model.residual_step

    def step(norm: nn.Module, block: Callable[..., BlockOutput], x: Tensor, *rest: Any) -> BlockOutput:
        # Evaluations have other shapes, each of which would be compiled.
        return (residual_step if residual_step and model.training else plain)(norm, block, x, *rest)

    for norm, block in zip(model.norms, model.blocks, strict=True):
        # The whole residual step is the forward pass of its unit: a compiled graph then contains no hooks of FSDP2.
        block.forward = partial(step, norm, block.forward)
        fully_shard(block, mesh=mesh)
    cast(Any, model).residual_step = _call_unit
    fully_shard(model, mesh=mesh, reshard_after_forward=False)  # the loss needs the head right after the forward pass
    for unit in _units(model):
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)  # gloo has no sum that divides


def _call_unit(norm: nn.Module, block: nn.Module, x: Tensor, *rest: Any) -> BlockOutput:
    return block(x, *rest)


def _units(model: LanguageModel) -> "list[FSDPModule]":
    return [module for module in model.modules() if _is_unit(module)]


def _is_unit(module: nn.Module) -> "TypeGuard[FSDPModule]":
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def _is_part(tensor: Tensor | None) -> "TypeGuard[DTensor]":
    """Return whether a tensor is one process's part; nothing is, unless its module was imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_divided(tensor: Tensor) -> bool:
    """Return whether a tensor's parts are in several processes; all of them agree, though one may have all rows."""
    return _is_part(tensor) and any(
        place.is_shard() and tensor.device_mesh.size(dim) > 1 for dim, place in enumerate(tensor.placements)
    )


def begin_micro_batch(model: LanguageModel, device: Device, *, is_last: bool) -> None:
    """Decide whether the next backward pass sums gradients over the processes: the last of a global batch always does.

    Sharded gradients are summed in every pass, since those of the whole model would not fit.
    """
    if _is_unit(model):
        model.set_is_last_backward(is_last)
        model.set_requires_gradient_sync(is_last or device.is_sharded)


def release_weights(model: LanguageModel) -> None:
    """Free the gathered weights that an evaluation leaves; `parameters()` returns the process's part again."""
    if _is_unit(model):
        model.reshard()


def whole(tensor: Tensor) -> Tensor:
    """Return a whole tensor from the parts of all processes, which have to call this together."""
    return tensor.full_tensor() if _is_part(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """Return the part of a tensor that this process holds; it shares the memory."""
    return tensor.to_local() if _is_part(tensor) else tensor


def part_like(tensor: Tensor, like: Tensor | None) -> Tensor:
    """Return a tensor that every process has whole in the form of `like`: itself, or this process's part of it."""
    if not _is_part(like) or _is_part(tensor) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def gather_part(part: Tensor, like: Tensor) -> Tensor:
    """Return the whole of a tensor of which every process has its part, as of the DTensor `like`."""
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    placed = DTensor.from_local(part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
    return placed.full_tensor()


def gather_tensors(tensors: Mapping[str, Tensor], process_group: ProcessGroup) -> dict[str, Tensor]:
    """Return whole tensors on the CPU, one after the other to limit memory; in other ranks than 0, nothing.

    All processes have to call it together.
    """
    gathered: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor).detach()
        if process_group.is_rank_zero:
            gathered[name] = full.cpu().contiguous()
    return gathered


def gather_model(model: LanguageModel, device: Device) -> LanguageModel:
    """Return the whole model in every process, to use it without the others: itself in a single process.

    All processes have to call it together.
    """
    if device.process_group.size == 1:
        return model
    copy, weights = build_model(model.spec, seed=0), model.state_dict()
    for name, tensor in copy.state_dict().items():
        tensor.copy_(whole(weights[name]))
    return copy.to(device.kind)
