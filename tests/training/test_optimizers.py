"""Settings of AdamW and Muon; tests/contract checks by name which parameters of every architecture decay."""

import copy
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from src.config.schema import OptimizerConfig
from src.model.language_model import LanguageModel
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from src.training import muon
from src.training.muon import Muon, orthogonalize
from src.training.optimizers import build_optimizer
from tests.contract.small import small_model


def test_settings_are_passed_to_the_optimizer() -> None:
    config = OptimizerConfig(
        name="adamw", learning_rate=3e-3, betas=[0.8, 0.99], eps=1e-6, weight_decay=0.3, grad_clip=1.0
    )
    optimizer = build_optimizer(small_model("mamba"), config)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (3e-3, (0.8, 0.99), 1e-6, True)


@pytest.mark.parametrize("architecture", ["mamba", "hybrid"])
def test_zero_gradient_changes_only_decayed_parameters(architecture: str) -> None:
    model = small_model(architecture, "classic")
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if name in model.no_decay() else 1 - 0.1 * 0.5
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=lambda text, name=name: name + text)


MUON = OptimizerConfig(name="muon", learning_rate=1e-2, weight_decay=0.3, momentum=0.9)


@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_muon_equals_torch(shape: tuple[int, int]) -> None:
    """Its iterations are in bf16, so they agree to the two digits of bf16."""
    ours, start, theirs = (
        torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1))) for _ in "abc"
    )
    optimizers = [
        Muon([ours], [{"params": [torch.nn.Parameter(torch.ones(1))]}], momentum=0.9, weight_decay=0.3, lr=1e-2),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.3, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
    ]
    for step in range(4):
        gradient = torch.randn(shape, generator=torch.Generator().manual_seed(10 + step))
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < 0.02 * moved and moved > 0.1


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("dense", {"qkv"}),
        ("hybrid", {"qkv", "in_proj"}),
        ("mamba1", {"in_proj", "x_proj"}),
        ("gated_deltanet", {"qk", "value_gate", "dt_beta"}),
    ],
)
def test_muon_updates_packed_projections_separately(architecture: str, names: set[str]) -> None:
    """Queries, keys and values are updated as separate matrices, and so are the parts of other projections."""
    model = small_model(architecture)
    optimizer = build_optimizer(model, MUON)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    packed = model.packed_projections()
    weights = {name: model.get_parameter(name) for name in packed}
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    optimizer.step()
    assert {name.split(".")[2] for name in packed} == names
    for name, rows in packed.items():
        assert sum(rows) == weights[name].shape[0]
        gradient, start = weights[name].grad, before[name]
        assert gradient is not None
        alone = [torch.nn.Parameter(part.clone()) for part in start.split(rows)]
        for part, its_gradient in zip(alone, gradient.split(rows), strict=True):
            part.grad = its_gradient.clone()
        rest = [{"params": [torch.nn.Parameter(torch.ones(1))]}]
        Muon(alone, rest, momentum=0.9, weight_decay=0.3, lr=1e-2).step()
        torch.testing.assert_close(weights[name].detach(), torch.cat([part.detach() for part in alone]))


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    """For both orientations, and each matrix of a batch independently."""
    draws = (
        torch.randn(3, 24, 60, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    )
    for matrices in (draws, draws.mT):
        found = orthogonalize(matrices)
        values = torch.linalg.svdvals(found)
        assert values.min() > 0.5 and values.max() < 1.5
        for one, together in zip(matrices, found, strict=True):
            torch.testing.assert_close(orthogonalize(one), together, rtol=1e-4, atol=1e-5)
    assert not orthogonalize(torch.zeros(4, 4)).any()


class ThreadGroup(ProcessGroup):
    """Processes that are threads, three of them: more than some shapes have matrices."""

    barrier = threading.Barrier(3, timeout=60)
    tensors: ClassVar[dict[int, Tensor]] = {}

    def all_reduce_sum(self, tensors: Iterable[Tensor]) -> None:
        (tensor,) = tensors
        self.tensors[self.rank] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(torch.stack([self.tensors[rank] for rank in range(self.size)]).sum(dim=0))
        self.barrier.wait()


@pytest.mark.parametrize("architecture", ["moe", "hybrid"])
def test_processes_share_the_iterations_of_muon(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    iterated: list[int] = []
    real = muon.orthogonalize

    def count(matrices: Tensor) -> Tensor:
        iterated.append(len(matrices))
        return real(matrices)

    monkeypatch.setattr(muon, "orthogonalize", count)

    def train(model: LanguageModel, group: ProcessGroup) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        optimizer = build_optimizer(model, MUON, process_group=group)
        for _ in range(2):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
        return model.state_dict()

    alone, n_alone = train(small_model(architecture), SINGLE_PROCESS), sum(iterated)
    iterated.clear()
    models = [small_model(architecture) for _ in range(3)]  # here, as they draw from the generator of all threads
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(train, models, [ThreadGroup(rank, 3, rank, 3) for rank in range(3)])
    assert sum(iterated) == n_alone, "each matrix once, by one of them"
    for name, weight in first.items():
        torch.testing.assert_close(weight, alone[name], rtol=1e-4, atol=1e-5)
        assert all(torch.equal(other[name], weight) for other in others), name


@pytest.mark.parametrize("architecture", ["dense", "mamba", "moe", "hybrid"])
def test_muon_has_the_matrices_of_blocks_and_adamw_the_rest(architecture: str) -> None:
    model = small_model(architecture, "classic")
    optimizer = build_optimizer(model, MUON)
    names = {parameter: name for name, parameter in model.named_parameters()}
    matrices, decayed, not_decayed = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    last = {name.split(".", 2)[-1] for name in matrices}
    maps = {
        "qkv.weight",
        "out.weight",
        "w_in.weight",
        "w_out.weight",
        "w_in",
        "w_out",
        "in_proj.weight",
        "out_proj.weight",
    }
    assert last <= maps and all(name.startswith("blocks.") for name in matrices)
    assert {name for name in names.values() if name.split(".", 2)[-1] in maps} == matrices
    assert decayed >= {"head.weight"} and not_decayed == model.no_decay()
    assert matrices | decayed | not_decayed == set(names.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]


def test_muon_changes_nothing_for_a_non_finite_gradient() -> None:
    model = small_model("moe")
    optimizer = build_optimizer(model, MUON)

    def step(value: float, found_inf: float) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        optimizer.found_inf = torch.tensor(found_inf)  # pyright: ignore[reportAttributeAccessIssue]
        optimizer.step()

    step(0.5, 0.0)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict()["state"])
    step(float("nan"), 1.0)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    after = optimizer.state_dict()["state"]
    assert all(torch.equal(after[i][name], state[i][name]) for i in state for name in state[i])
    step(0.5, 0.0)
    assert not all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_state_of_muon_is_restored_exactly() -> None:
    """Two steps in a row equal one step, a save into a new optimizer, and one more step."""

    def step(model: LanguageModel, optimizer: torch.optim.Optimizer, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()

    one, other = small_model("hybrid"), small_model("hybrid", seed=1)
    first, second = build_optimizer(one, MUON), build_optimizer(other, MUON)
    step(one, first, 0)
    other.load_state_dict(one.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimizer in ((one, first), (other, second)):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3
        step(model, optimizer, 1)
    assert all(torch.equal(tensor, one.state_dict()[name]) for name, tensor in other.state_dict().items())
