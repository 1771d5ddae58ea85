"""The trial of torch.compile: its decision, its message, and that it changes nothing."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from src.model.dropout import Dropout
from src.runtime.device import Device
from src.runtime.distributed import SINGLE_PROCESS, ProcessGroup
from src.training import compilation
from src.training.compilation import Batch, Forward
from tests.contract.small import CPU, random_tokens, run_as_compiled, small_model

BATCH = Batch(2, 16)


class FailingPartner(ProcessGroup):
    """One of two processes, of which the other cannot compile."""

    def all_reduce_max(self, number: int | None) -> int | None:
        return 1


def broken(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
    raise RuntimeError("no compiler\nhere")


@pytest.mark.usefixtures("without_cpu_kernels")
@pytest.mark.parametrize(
    ("masked", "dropout"),
    [(True, 0.1), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((False, 0.0), (False, 0.1), (True, 0.0)))],
)
def test_graphs_of_the_trial_are_reused_in_training(masked: bool, dropout: float) -> None:
    model, tokens = small_model("hybrid"), random_tokens(BATCH.size, BATCH.length, seed=1)
    documents = (tokens < 9).cumsum(dim=1) if masked else None
    counter = CompileCounterWithBackend("eager")

    def hidden(forward: Forward) -> Tensor:
        model.dropout = Dropout(dropout, ("step",), range(BATCH.size), "cpu") if dropout else None
        return forward(tokens, documents=documents).hidden

    with torch.compiler.set_stance("default", force_backend=counter):
        forward = compilation.compile_and_check(model, BATCH._replace(masked=masked, dropout=dropout), CPU)
        n_graphs = counter.frame_count
        found, expected = (hidden(each) for each in (forward, run_as_compiled(model)))
        assert torch.equal(found, expected)
    assert counter.frame_count == n_graphs == len(set(model.spec.blocks))


@pytest.mark.parametrize(
    ("backend", "speedup", "world", "is_used", "message"),
    [
        ("eager", 1.5, SINGLE_PROCESS, True, r"1\.50 times as fast \(\d+ s of compiling\)"),
        ("eager", 0.9, SINGLE_PROCESS, False, r"0\.90 times as fast \(\d+ s of compiling\); going on without"),
        ("eager", 1.5, FailingPartner(), False, r"1\.50 .*, but not in every process; going on without"),
        (broken, 1.5, SINGLE_PROCESS, False, r"it fails here \(.*broken.*\); going on without"),
    ],
)
def test_compiled_form_is_used_if_it_works_and_is_faster(
    backend: Any, speedup: float, world: ProcessGroup, is_used: bool, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, lines, tokens = small_model("dense"), list[str](), random_tokens(BATCH.size, BATCH.length)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    generator = torch.get_rng_state()
    monkeypatch.setattr(compilation, "median_times", lambda actions, device, seconds: [speedup, 1.0])
    with torch.compiler.set_stance("default", force_backend=backend):
        forward = compilation.compile_if_faster(model, BATCH, Device("cpu", "fp32", 1, world), lines.append)
        assert (forward is not None) == is_used
        if forward is not None:
            assert torch.equal(forward(tokens).hidden, model(tokens).hidden)
    (line,) = lines
    assert re.fullmatch(f"torch.compile: {message}", line)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
