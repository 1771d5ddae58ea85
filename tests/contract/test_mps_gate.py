"""Checks on Linux for MPS, which our test machines do not have: missing kernels, changing shapes and synchronizations.

Every architecture runs training and decoding, with both recipes and both optimizers. Known exceptions are listed below
by name; planted faults show that the checks can fail.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from src.config.schema import CONF, ModelSpec, OptimizerConfig, SamplingConfig, ScheduleConfig, TrainingConfig
from src.data.loader import TrainLoader
from src.inference.generation import generate
from src.model.blocks.attention import module
from src.model.blocks.base import BlockOutput
from src.model.blocks.mlp.module import MLP
from src.model.build import build_model
from src.model.language_model import LanguageModel
from src.profiling.operator_trace import OperatorTrace, read_kernels, runs_on_mps
from src.runtime.device import Device
from src.runtime.signals import StopRequest
from src.training import loop
from src.training.loop import Hooks, Validation, fit
from src.training.optimizer_base import AdamW
from src.training.optimizers import build_optimizer
from src.training.stage_budget import StagePlan
from src.training.train_step import StepOutput, TrainState, train_step
from tests.contract.small import ARCHITECTURES, CPU, RECIPES, VOCAB_SIZE, random_tokens, small_spec

OPTIMIZERS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))

MOE_WAITS = frozenset(
    {
        # Each expert is one product over its own tokens, so their number must be known to split them.
        "src/model/blocks/moe/module.py: tolist",
        # one_hot checks its input on the CPU only; on other devices the kernel does.
        "src/model/blocks/moe/module.py: _local_scalar_dense",
    }
)
"""The only kind of block that synchronizes with the device within a training step."""
DECODING_WAITS = frozenset({"src/inference/generation.py: __int__"})
"""Yielding a token reads it."""
BATCH = {"src/runtime/device.py: to"}
"""The transfer of the batch to the device, which is the CPU here."""
FP16 = ["float64: _to_copy", "float64: reciprocal"]
"""Torch's loss scaler inverts its scale in float64, except on MPS."""
SHAPES_THAT_CHANGE = {"moe": "mlp"}
"""In training: experts get as many tokens as choose them. The value is the block that replaces them in the check."""
SHAPES_THAT_GROW = dict.fromkeys(("attention", "conv_attention", "qk_norm_attention"), "sliding_attention")
"""In decoding: attention reads one more key per token; a window, once full, does not."""


pytestmark = pytest.mark.usefixtures("without_cpu_kernels")


def each_kind_once(spec: ModelSpec) -> ModelSpec:
    """Keep one block of each kind: blocks of one kind share their code."""
    return replace(spec, blocks=tuple(dict.fromkeys(spec.blocks)))


def known_waits(spec: ModelSpec) -> frozenset[str]:
    return MOE_WAITS if "moe" in spec.blocks else frozenset()


def stepper(
    model: LanguageModel, optimizer: str = "adamw", precision: str = "fp32", masked: bool = False
) -> Callable[[int], object]:
    """Return a function that trains one step of two micro batches on tokens of the given seed.

    masked: whether documents are masked, of which one begins at about every fourth token.
    """
    device = Device("cpu", precision, 1)
    model.train()
    built = build_optimizer(model, OptimizerConfig(name=optimizer, learning_rate=1e-3))
    state = TrainState.begin("language", model, built, device)

    def step(seed: int) -> object:
        batch = random_tokens(2, 33, seed, vocab_size=4 if masked else VOCAB_SIZE)
        settings: dict[str, Any] = {"micro_batch_size": 1, "grad_clip": 1.0, "eot_id": 0 if masked else None}
        return train_step(state, batch, device=device, **settings)

    return step


def traced_step(model: LanguageModel, optimizer: str = "adamw", precision: str = "fp32") -> OperatorTrace:
    step = stepper(model, optimizer, precision)
    with OperatorTrace() as trace:
        step(0)
    return trace


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_training_step_passes(architecture: str, recipe: str, optimizer: str) -> None:
    spec = small_spec(architecture, recipe)
    trace = traced_step(build_model(each_kind_once(spec), seed=0), optimizer)
    assert trace.violations(known_waits(spec)) == []
    assert "_fused_adamw_" in trace.ops and len(trace.ops) > 40
    # Fails if an exception is no longer needed.
    assert known_waits(spec) <= trace.waits.keys()


@pytest.mark.parametrize(("precision", "known"), [("bf16", []), ("fp16", FP16)])
@pytest.mark.parametrize("architecture", ["jamba", "moe_hybrid"])
def test_training_step_in_half_precision_passes(architecture: str, precision: str, known: list[str]) -> None:
    spec = small_spec(architecture)
    trace = traced_step(build_model(each_kind_once(spec), seed=0), "adamw", precision)
    assert trace.violations(known_waits(spec)) == known


def test_causal_mask_of_half_precision_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "needs_causal_mask", lambda query: True)
    trace = traced_step(build_model(each_kind_once(small_spec("dense")), seed=0), "adamw", "bf16")
    assert trace.violations() == [] and "tril" in trace.ops


def test_training_options_pass() -> None:
    spec = replace(each_kind_once(small_spec("moe_hybrid")), router_bias_rate=0.001)
    model = build_model(spec, seed=0)
    model.activation_checkpointing = True
    trace = traced_step(model)
    assert trace.violations(known_waits(spec)) == []
    assert "sign" in trace.ops


@pytest.mark.parametrize(
    ("architecture", "recipe"), [*((name, "modern") for name in ARCHITECTURES), ("dense", "classic")]
)
def test_masked_documents_pass(architecture: str, recipe: str) -> None:
    """The shapes do not depend on where documents begin."""
    spec = each_kind_once(small_spec(architecture, recipe))
    step = stepper(build_model(without(spec, SHAPES_THAT_CHANGE), seed=0), masked=True)
    step(0)  # creates the optimizer's state
    traces = [OperatorTrace(), OperatorTrace()]
    for seed, trace in enumerate(traces):
        with trace:
            step(seed)
        assert trace.violations() == []
    assert traces[0].signatures == traces[1].signatures
    assert "cumsum" in traces[0].ops


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decoding_passes(architecture: str, recipe: str) -> None:
    spec = small_spec(architecture, recipe)
    model = build_model(each_kind_once(spec), seed=0)
    sampling = SamplingConfig(max_new_tokens=3, temperature=0.8, top_k=5)
    with OperatorTrace() as trace:
        assert len(list(generate(model, list(range(20)), sampling))) == 3
    assert trace.violations(known_waits(spec) | DECODING_WAITS) == []
    assert trace.waits.keys() >= DECODING_WAITS


def new_in_training(spec: ModelSpec) -> set[tuple[Any, ...]]:
    """Return the operations of steps three and four that the first two did not have: MPS compiles a graph for each."""
    model = build_model(spec, seed=0)
    step, warm, later = stepper(model), OperatorTrace(), OperatorTrace()
    for seed in range(4):
        with warm if seed < 2 else later:
            step(seed)
    return later.signatures - warm.signatures


@torch.no_grad()
def new_in_decoding(spec: ModelSpec) -> set[tuple[Any, ...]]:
    """Return the operations of later tokens that the prompt, longer than any window, and two tokens did not have."""
    model, tokens = build_model(spec, seed=0).eval(), random_tokens(1, 25)
    cache, warm, later = model.make_cache(1, 32), OperatorTrace(), OperatorTrace()
    for number, fresh in enumerate((tokens[:, :20], *tokens[:, 20:].split(1, dim=1))):
        with warm if number < 3 else later:
            model.logits(fresh, cache)
    return later.signatures - warm.signatures


def without(spec: ModelSpec, exceptions: dict[str, str]) -> ModelSpec:
    return replace(spec, blocks=tuple(exceptions.get(kind, kind) for kind in spec.blocks))


@pytest.mark.parametrize(
    ("new", "exceptions"), [(new_in_training, SHAPES_THAT_CHANGE), (new_in_decoding, SHAPES_THAT_GROW)]
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_shapes_do_not_change(
    architecture: str, new: Callable[[ModelSpec], set[tuple[Any, ...]]], exceptions: dict[str, str]
) -> None:
    """Otherwise the graphs that MPS caches, one per shape, grow without bound (pytorch#181213)."""
    spec = each_kind_once(small_spec(architecture))
    assert spec.window <= 20
    assert new(without(spec, exceptions)) == set()
    assert bool(new(spec)) == bool(set(exceptions) & set(spec.blocks))


@pytest.mark.parametrize("architecture", ["dense", "moe"])
def test_loop_synchronizes_only_in_logged_steps(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = small_spec(architecture)
    model, waits = build_model(spec, seed=0), list[Counter[str]]()

    def counted_step(*given: Any, **settings: Any) -> StepOutput:
        trace.waits = Counter()
        waits.append(trace.waits)
        return train_step(*given, **settings)

    monkeypatch.setattr(loop, "train_step", counted_step)
    loader = TrainLoader(np.random.default_rng(0).integers(0, VOCAB_SIZE, 4000).astype(np.uint16), 32, seed=0)
    optimizer = build_optimizer(model, OptimizerConfig(name="adamw", learning_rate=1e-3))
    state = TrainState.begin("language", model, optimizer, CPU)
    training = TrainingConfig(seq_len=32, global_batch_size=2, micro_batch_size=2, max_tokens=10**9, log_every=2)
    hooks = Hooks(lambda: Validation(1.0, 1.0), lambda row: None, lambda kind, in_background: None, lambda branch: None)
    with OperatorTrace() as trace:
        plan = StagePlan("language", 6, 1e-3, 100, 100, flops_per_token=1.0)
        fit(state, plan, loader, training, ScheduleConfig(name="cosine"), 1.0, CPU, hooks, StopRequest())
    assert [bool(of_step.keys() - known_waits(spec) - BATCH) for of_step in waits] == [False, True] * 3


def test_kernel_list_equals_the_dispatcher() -> None:
    """The dispatcher of this build knows its CPU kernels, which checks delegation, autogen and composites."""
    dispatcher = torch._C._dispatch_has_computed_kernel_for_dispatch_key
    registered = set(torch._C._dispatch_get_all_op_names())
    ours = {name for name in read_kernels() if f"aten::{name}" in registered}
    assert len(ours) > 2500
    for name in sorted(ours):
        listed = any(key == "CPU" or key.startswith("Composite") for key in read_kernels()[name])
        assert listed == dispatcher(f"aten::{name}", "CPU"), name
    assert not runs_on_mps("no_such_operation") and not runs_on_mps("_linalg_eigh.eigenvalues")
    assert runs_on_mps("add.Tensor") and runs_on_mps("mm") and runs_on_mps("_fused_adamw_")


PLANTED: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "eigenvalues": (
        lambda x: torch.linalg.eigvalsh(x[0, :4].detach() @ x[0, :4].detach().T),
        "no MPS kernel: _linalg_eigh",
    ),
    "embedding(max_norm)": (
        lambda x: F.embedding(torch.arange(3), x[0].detach().clone(), max_norm=1.0),
        "no MPS kernel: embedding_renorm_",
    ),
    "segment_reduce": (
        lambda x: torch.segment_reduce(x[0, :, 0].detach(), "sum", lengths=torch.tensor([x.shape[1]])),
        "no MPS kernel: segment_reduce",
    ),
    "float64": (lambda x: x.double().exp(), "float64: exp"),
    "float64 in between": (lambda x: torch.zeros(2, dtype=torch.float64), "float64: zeros"),
    "item": (lambda x: x.sum().item(), "language_model.py: item"),
    "tolist": (lambda x: x.tolist(), "tolist"),
    "bool": (lambda x: 1 if x.sum() > 0 else 2, "__bool__"),
    "float": (lambda x: float(x.detach().sum()), "_local_scalar_dense"),
    "to the CPU": (lambda x: x.to("cpu"), ": to"),
    "numpy": (lambda x: x.detach().numpy(), "numpy"),
    "where": (lambda x: x.detach()[x.detach() > 0], "waits for the device: src/model/language_model.py: index.Tensor"),
    "convolution": (
        lambda x: F.conv1d(x.transpose(1, 2), torch.ones(8, 3, x.shape[2]).transpose(1, 2)),
        "weight not contiguous: convolution",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_fault_is_detected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fault, violation = PLANTED[name]
    plain = MLP.forward

    def forward(self: MLP, x: Tensor, cache: Any = None, documents: Any = None) -> BlockOutput:
        fault(x)
        return plain(self, x, cache)

    model = build_model(replace(small_spec("dense"), blocks=("attention", "mlp")), seed=0)
    assert traced_step(model).violations() == []
    monkeypatch.setattr(MLP, "forward", forward)
    assert any(violation in line for line in traced_step(model).violations())


def test_planted_shape_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, plain, calls = replace(small_spec("dense"), blocks=("sliding_attention", "mlp")), MLP.forward, list[int]()

    def forward(self: MLP, x: Tensor, cache: Any = None, documents: Any = None) -> BlockOutput:
        calls.append(0)
        x[:, : len(calls)].exp()
        return plain(self, x, cache)

    assert new_in_training(spec) == new_in_decoding(spec) == set()
    monkeypatch.setattr(MLP, "forward", forward)
    assert any(signature[0] == "exp" for signature in new_in_training(spec))


def test_fault_in_backward_pass_and_optimizer_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model(replace(small_spec("dense"), blocks=("mlp",)), seed=0)
    model.head.weight.register_hook(lambda gradient: gradient.double().float())
    assert any("float64: _to_copy" in line for line in traced_step(model).violations())

    def slow(*args: Any, **kwargs: Any) -> None:
        torch.linalg.eigvalsh(torch.eye(2))

    model = build_model(replace(small_spec("dense"), blocks=("mlp",)), seed=0)
    monkeypatch.setattr(AdamW, "step", slow)
    assert any("no MPS kernel: _linalg_eigh" in line for line in traced_step(model).violations())
