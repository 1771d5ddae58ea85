"""Sharded checkpoints: every process writes its part of the weights and of the optimizer's state.

    shard-00001-model-00001-of-00001.safetensors   model.NAME: weights; optimizer.NAME.KEY: state, such as exp_avg

`torch.distributed.checkpoint` writes and reads them as safetensors, whose headers have the place of each part, so any
number of processes reads what any other number wrote. Its own format is not used: the `.metadata` in it is a pickle,
which executes code when it is read. It does not notice a changed byte, so the caller checks each file's SHA-256 first.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from src.model.language_model import LanguageModel
from src.runtime.distributed import ProcessGroup, RankZeroFailed

PATTERN = "shard-*.safetensors"
WEIGHTS, OPTIMIZER = "model", "optimizer"


def weight_tensors(model: LanguageModel) -> dict[str, Tensor]:
    """Return the weights, or this process's parts of them, by their names in the files; they share the memory."""
    return {f"{WEIGHTS}.{name}": tensor.detach() for name, tensor in model.state_dict().items()}


def optimizer_tensors(model: LanguageModel, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of each parameter, or this process's part of it, by its name in the files."""
    return {
        f"{OPTIMIZER}.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def write_shards(folder: Path, tensors: Mapping[str, Tensor], process_group: ProcessGroup) -> None:
    """Write this process's parts; all have the same folder. Raises: OSError in rank 0, RankZeroFailed elsewhere."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _one_error(process_group):  # the order decides which process writes a tensor that all of them have
        save(dict(sorted(tensors.items())), storage_writer=writer, process_group=process_group.group)


def read_shards(folder: Path, tensors: Mapping[str, Tensor], process_group: ProcessGroup) -> None:
    """Fill tensors, or this process's parts, in place. Raises: what a file or a tensor that does not fit raises."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(folder))
    with _one_error(process_group), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)  # as is meant for one process
        load(dict(tensors), storage_reader=reader, no_dist=process_group.size == 1)


def read_optimizer(
    folder: Path, model: LanguageModel, optimizer: torch.optim.Optimizer, process_group: ProcessGroup
) -> dict[str, Any]:
    """Return the state dict of an optimizer with the state in the files; learning rate and betas stay its own."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    names = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(parameters):
        prefix = f"{OPTIMIZER}.{names[parameter]}."
        for full_name in sorted(name for name in found if name.startswith(prefix)):
            size = getattr(found[full_name], "size", parameter.shape)
            is_shaped = size == parameter.shape
            empty = torch.zeros_like(parameter) if is_shaped else torch.zeros(size, device=parameter.device)
            tensors[full_name] = empty.detach()
            state.setdefault(index, {})[full_name.removeprefix(prefix)] = tensors[full_name]
    read_shards(folder, tensors, process_group)
    return optimizer.state_dict() | {"state": state}


@contextmanager
def _one_error(process_group: ProcessGroup) -> Iterator[None]:
    """Raise the first error of any process in rank 0, and RankZeroFailed elsewhere: all processes know of it."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as failed:
        error, _ = next(iter(failed.failures.values()))
        raise (error if process_group.is_rank_zero else RankZeroFailed()) from failed
