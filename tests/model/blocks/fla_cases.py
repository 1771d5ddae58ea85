"""Compare `fla_kernels.py` with reference implementations; as a program, in Triton's interpreter on the CPU.

    TRITON_INTERPRET=1 python -m tests.model.blocks.fla_cases       prints the differences of the recurrences

The interpreter runs each kernel as Python, which takes a minute. Two things differ from a GPU: the first configuration
of each kernel is used instead of the fastest, and loops count in integers that have the method `to` of Triton's values.
"""

import builtins
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from src.model.blocks.fla_kernels import fla_delta_rule, fla_ssd
from src.model.blocks.mamba.ssd import signed_ssd
from tests.contract.small import GROUPED, random_tokens, small_model
from tests.reference.delta_rule import sequential_delta_rule
from tests.reference.documents import packed_ids
from tests.reference.ssd import sequential_ssd

BATCH, HEADS, KEY, VALUE = 2, 2, 24, 40
LENGTHS = (30, 1, 34, 5)
"""Documents in each row: 70 positions, which chunks of 64 and of 32 do not divide."""
MODELS = (("mamba", GROUPED), ("gated_deltanet", "modern"))

Scan = Callable[..., tuple[Tensor, Tensor]]


def compare_recurrences(device: str) -> Iterator[tuple[str, float]]:
    """Yield each case and the largest difference of values and gradients, relative to the largest expected value."""
    ssd = _ssd_inputs()
    delta = _delta_inputs()
    state = _draw(BATCH, KEY, HEADS, VALUE, seed=1)
    cases: dict[str, tuple[Scan, Scan, list[Tensor], Tensor]] = {
        "ssd": (partial(fla_ssd, chunk=64), sequential_ssd, ssd, state),
        "signed ssd": (
            partial(signed_ssd, chunk=64, scan=fla_ssd),
            partial(sequential_ssd, is_signed=True),
            ssd,
            state,
        ),
        "delta rule": (partial(fla_delta_rule, chunk=64), sequential_delta_rule, delta, state.transpose(1, 2)),
    }
    for name, (found, expected, inputs, start) in cases.items():
        documents = packed_ids(LENGTHS, BATCH).to(device)
        for lengths in ((sum(LENGTHS),), LENGTHS):
            masked = partial(found, documents=documents) if len(lengths) > 1 else found
            ours = _run(masked, [*inputs, start], device)
            theirs = _run(partial(_separately, expected, lengths), [*inputs, start], "cpu")
            yield f"{name}, {len(lengths)} documents", _largest(ours, theirs)


def compare_models(device: str) -> Iterator[tuple[str, float]]:
    """Compare the hidden states of whole models and the gradients of all weights with those of our recurrences."""
    for architecture, recipe in MODELS:
        tokens = random_tokens(2, 40).to(device)
        for documents in (None, packed_ids((25, 15), 2).to(device)):
            results = []
            for uses_fla in (False, True):
                model = small_model(architecture, recipe).to(device)
                model.uses_fla = uses_fla
                hidden = model(tokens, documents=documents).hidden
                (hidden * _draw(*hidden.shape, seed=8).to(device)).mean().backward()
                results.append([hidden, *(weight.grad for weight in model.parameters() if weight.grad is not None)])
            name = f"{architecture} {recipe}, {'one document' if documents is None else 'documents'}"
            yield name, _largest(results[1], results[0])


def _draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _ssd_inputs() -> list[Tensor]:
    """Return x, dt, a, b and c."""
    length = sum(LENGTHS)
    dt = F.softplus(_draw(BATCH, length, HEADS, seed=3) - 2)
    x, b, c = _draw(BATCH, length, HEADS, VALUE, seed=2), *(_draw(BATCH, length, KEY, seed=seed) for seed in (5, 6))
    return [x, dt, -_draw(HEADS, seed=4).exp(), b, c]


def _delta_inputs() -> list[Tensor]:
    """Return q, k, v, log_decay and beta, which is up to 2."""
    length = sum(LENGTHS)
    q, k = (F.normalize(_draw(BATCH, length, HEADS, KEY, seed=seed), dim=-1) for seed in (2, 3))
    log_decay, beta = (_draw(BATCH, length, HEADS, seed=seed) for seed in (5, 6))
    return [q, k, _draw(BATCH, length, HEADS, VALUE, seed=4), F.logsigmoid(log_decay), 2 * beta.sigmoid()]


def _run(scan: Scan, inputs: list[Tensor], device: str) -> list[Tensor]:
    """Return the outputs, the last state and the gradients of all inputs; the last input is the state."""
    leaves = [part.to(device, copy=True).requires_grad_() for part in inputs]
    y, last = scan(*leaves[:-1], state=leaves[-1])
    weights = _draw(*y.shape, seed=7).to(device)
    loss = (y * weights).sum() + last.square().sum()
    return [y, last, *torch.autograd.grad(loss, leaves)]


def _separately(scan: Scan, lengths: Sequence[int], *inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Run each document separately; the first continues from the state. Inputs without positions are for all."""
    cuts = [part.split(list(lengths), dim=1) if part.ndim > 1 else [part] * len(lengths) for part in inputs]
    outputs = []
    for i, parts in enumerate(zip(*cuts, strict=True)):
        y, last = scan(*parts, state if i == 0 else torch.zeros_like(state))
        outputs.append(y)
    return torch.cat(outputs, dim=1), last


def _largest(found: list[Tensor], expected: list[Tensor]) -> float:
    pairs = [(one.detach().double().cpu(), other.detach().double()) for one, other in zip(found, expected, strict=True)]
    return max(float((one - other.cpu()).abs().max() / other.abs().max()) for one, other in pairs)


def prepare_interpreter() -> None:
    """Let the kernels of the library run in Triton's interpreter (3.7). Call it once, with TRITON_INTERPRET=1."""
    for name in ("simple_gla", "gated_delta_rule"):
        import_module(f"fla.ops.{name}")
    from fla.ops.utils.cache import CachedAutotuner  # pyright: ignore[reportMissingImports]
    from triton.runtime.autotuner import Autotuner  # pyright: ignore[reportMissingImports]

    class Index(int):
        def to(self, _: object) -> "Index":
            return self

    def interpreted_range(*bounds: Any) -> Iterator[Index]:
        return map(Index, builtins.range(*(int(bound) for bound in bounds)))

    def run(self: Any, *args: Any, **settings: Any) -> Any:
        return self.fn.run(*args, **settings, **self.configs[0].all_kwargs())

    Autotuner.run = CachedAutotuner.run = run
    for name, module in list(sys.modules.items()):
        if name.startswith("fla.ops."):
            vars(module)["range"] = interpreted_range


if __name__ == "__main__":
    prepare_interpreter()
    print(json.dumps(dict(compare_recurrences("cpu"))))
