"""Check a machine: its speed in each precision, which options are faster, and whether its numbers are correct.

Results are compared with independent ones: an accelerator with the CPU, bf16 with fp32, gradients with the slope of the
loss, decoding with one full pass, a long reduction with float64. Speeds are medians of interleaved calls, so that other
load on the machine affects both sides of a ratio.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from src.config.schema import ModelSpec, OptimizerConfig
from src.config.setting import choices_of
from src.model.blocks import block_class
from src.model.blocks.fla_kernels import is_fla_installed
from src.model.build import build_model
from src.model.language_model import LanguageModel, token_loss
from src.runtime.device import DTYPES, MAX_REDUCTION, Device
from src.runtime.precision import matmul_speed
from src.runtime.timing import median_times
from src.training.compilation import Forward
from src.training.optimizers import build_optimizer
from src.training.train_step import train_step
from src.training.trial_step import build_train_state

PROMPT_LENGTH = 9
"""Tokens of the prefill before decoding one by one."""
SLOPE_STEP = 1e-2
"""Length of the step of the weights that measures the slope of the loss: large enough that a token which changes its
expert on the way has little effect."""
FUTURE_STARTS, FUTURE_GAIN = 29, 4.0
"""To find positions that see the future: the first one that changes, at no edge of a group that a kernel may mask
together, and the factor of the weights."""
TOLERANCES = {
    "fp32": {"loss": 1e-4, "gradient": 5e-3, "worst_gradient": 2e-2, "decoding": 1e-3},
    "bf16": {"loss": 1e-2, "gradient": 0.15},
    "slope": {"slope": 5e-2},
    "sum": {"gradient": 1e-4},
    "update": {"update": 0.1},  # Muon iterates in bf16 where that is fast
    "future": {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2},  # experts have other batches, which round otherwise
    "attention fp32": {"values": 1e-4, "gradient": 1e-3, "leak": 1e-6},
    "attention bf16": {"values": 3e-2, "gradient": 5e-2, "leak": 1e-6},
    "attention fp16": {"values": 5e-3, "gradient": 1e-2, "leak": 1e-6},
    "overfit": {"last/first": 0.5, "curve": 0.05},
    "growth": {"growth": 0.25},
}
"""The largest relative differences that rounding explains, with a margin; wrong kernels differ by more."""
MIN_SPEEDUP = 1.05
"""Speedup from which an option is recommended."""


class Comparison(NamedTuple):
    """One quantity computed in two ways."""

    name: str
    ways: str
    differences: dict[str, float | None]
    """Relative: of the loss; of the gradient as one vector, and of the worst parameter; the largest of the logits; of
    the slope; of a weight update. None: not finite."""
    ok: bool
    error: str = ""
    """The device's error message if it could not compute."""


class Option(NamedTuple):
    """An option of training, compared with training without it."""

    name: str
    speedup: float | None
    """Time without it / time with it; None if it is not available here."""
    note: str = ""

    @property
    def is_faster(self) -> bool:
        return self.speedup is not None and self.speedup >= MIN_SPEEDUP


class ModelResults(NamedTuple):
    """The results of a model for fixed tokens; tensors are on the CPU in fp32."""

    loss: float
    gradients: list[Tensor]
    """One per parameter."""
    logits: Tensor
    """(T, V), of the first sequence."""


def run_model(
    spec: ModelSpec, tokens: Tensor, device: Device, *, decode: bool = False, uses_fla: bool = False
) -> ModelResults:
    """Compute loss and gradient of tokens (B, T + 1), and the logits of one pass, or token by token after a prompt."""
    model, placed = build_model(spec, seed=0).to(device.kind), tokens.to(device.kind)
    model.uses_fla = uses_fla
    loss = compute_loss(model, placed, device)
    loss.backward()
    gradients = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
    with torch.no_grad(), device.autocast():
        logits = _decode(model, placed[:1, :-1]) if decode else model.logits(placed[:1, :-1])[0]
    return ModelResults(float(loss.detach()), gradients, logits.float().cpu())


def compute_loss(model: LanguageModel, tokens: Tensor, device: Device, forward: Forward | None = None) -> Tensor:
    """Return the training loss of tokens (B, T + 1); `forward` is the model unless given."""
    with device.autocast():
        output = (forward or model)(tokens[:, :-1])
        loss = token_loss(model, output, tokens[:, 1:])
    return loss if output.aux_loss is None else loss + output.aux_loss


def _decode(model: LanguageModel, tokens: Tensor) -> Tensor:
    cache = model.make_cache(1, tokens.shape[1])
    parts = (tokens[:, :PROMPT_LENGTH], *tokens[:, PROMPT_LENGTH:].split(1, dim=1))
    return torch.cat([model.logits(part, cache)[0] for part in parts])


def compare(name: str, spec: ModelSpec, tokens: Tensor, device: Device) -> Iterator[Comparison]:
    """Compare a model with itself, computed in ways that should agree, on tokens (B, T + 1)."""
    reference = run_model(spec, tokens, Device("cpu", "fp32", device.threads))
    fp32, bf16 = (Device(device.kind, precision, device.threads) for precision in ("fp32", "bf16"))

    def compare_decoding() -> dict[str, float]:
        found = compute_differences(run_model(spec, tokens, fp32, decode=True), reference)
        # On a CPU, loss and gradient would be compared with themselves.
        return {"decoding": found["decoding"]} if device.kind == "cpu" else found

    def compare_bf16() -> dict[str, float]:
        found = compute_differences(run_model(spec, tokens, bf16), reference)
        return {key: found[key] for key in ("loss", "gradient")}

    def compare_future() -> dict[str, float]:
        precisions = [name for name in DTYPES if name != "fp16" or device.kind != "cpu"]
        return {name: future_difference(spec, tokens, Device(device.kind, name, device.threads)) for name in precisions}

    def compare_fla() -> dict[str, float]:
        return compute_differences(run_model(spec, tokens, fp32, decode=True, uses_fla=True), reference)

    with_cpu = "one by one, one pass" if device.kind == "cpu" else f"{device.kind}, cpu"
    yield check_differences(name, with_cpu, "fp32", compare_decoding)
    yield check_differences(name, "bf16, fp32", "bf16", compare_bf16)
    yield check_differences(name, "gradient, slope", "slope", lambda: {"slope": slope_difference(spec, tokens, fp32)})
    yield check_differences(name, "other future, same", "future", compare_future)
    has_kernel = any(block_class(kind).has_fla_kernel for kind in spec.blocks)
    if device.is_nvidia_gpu and is_fla_installed() and has_kernel:
        yield check_differences(name, f"{device.kind} fla, cpu", "fp32", compare_fla)


def check_differences(name: str, ways: str, rule: str, action: Callable[[], dict[str, float]]) -> Comparison:
    """Check the result of `action` against `TOLERANCES[rule]`; an error of the device fails the check."""
    try:
        found = action()
    except (RuntimeError, ImportError) as error:  # NotImplementedError for a missing kernel; a broken package
        return Comparison(name, ways, {}, False, " ".join(str(error).split())[:200])
    ok = all(value <= TOLERANCES[rule][key] for key, value in found.items())
    return Comparison(name, ways, {key: value if math.isfinite(value) else None for key, value in found.items()}, ok)


def compute_differences(found: ModelResults, reference: ModelResults) -> dict[str, float]:
    """Return the differences of loss, gradient and logits relative to the reference."""
    error = torch.stack([(a - b).norm() for a, b in zip(found.gradients, reference.gradients, strict=True)])
    length = torch.stack([gradient.norm() for gradient in reference.gradients])
    logits = (found.logits - reference.logits).abs().max() / reference.logits.abs().max()
    return {
        "loss": abs(found.loss - reference.loss) / abs(reference.loss),
        "gradient": float(error.norm() / length.norm()),
        # The gradient of a parameter may be so small that it is only rounding error.
        "worst_gradient": float((error / (length + 1e-4 * length.norm())).max()),
        "decoding": float(logits),
    }


def slope_difference(spec: ModelSpec, tokens: Tensor, device: Device) -> float:
    """Compare the length of the gradient with the slope of the loss along it, measured without a backward pass."""
    model, placed = build_model(spec, seed=0).to(device.kind), tokens.to(device.kind)
    compute_loss(model, placed, device).backward()
    pairs = [(parameter, parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    length = math.sqrt(sum(float(gradient.square().sum()) for _, gradient in pairs))

    @torch.no_grad()
    def loss_after(shift: float) -> float:
        for parameter, gradient in pairs:
            parameter.add_(gradient, alpha=shift / length)
        return float(compute_loss(model, placed, device))

    slope = (loss_after(SLOPE_STEP) - loss_after(-2 * SLOPE_STEP)) / (2 * SLOPE_STEP)
    return abs(slope - length) / length


@torch.no_grad()
def future_difference(spec: ModelSpec, tokens: Tensor, device: Device) -> float:
    """Change the tokens from `FUTURE_STARTS` on; return the largest change of the logits before, which must not see it.

    Without gradients, as in evaluation, which devices compute by other kernels than training.
    """
    model = build_model(spec, seed=0).to(device.kind).eval()
    matrices = model.matrices()
    for name, parameter in model.named_parameters():
        if name in matrices:  # initial weights are so small that a block hardly changes the logits
            parameter.mul_(FUTURE_GAIN)
    changed = tokens.clone()
    changed[:, FUTURE_STARTS:] = (changed[:, FUTURE_STARTS:] + 1) % spec.vocab_size
    with device.autocast():
        same, other = (model.logits(each.to(device.kind))[:, :FUTURE_STARTS].float() for each in (tokens, changed))
    return float((other - same).abs().max() / same.abs().max())


def compare_optimizers(spec: ModelSpec, tokens: Tensor, device: Device) -> Iterator[Comparison]:
    """Compare the update of each optimizer for the same gradients on an accelerator and on the CPU."""
    gradients = run_model(spec, tokens, Device("cpu", "fp32", device.threads)).gradients
    for name in choices_of(OptimizerConfig, "name"):

        def action(name: str = name) -> dict[str, float]:
            found, expected = (measure_update(spec, name, gradients, kind) for kind in (device.kind, "cpu"))
            return {"update": float((found - expected).norm() / expected.norm())}

        yield check_differences(f"optimizer {name}", f"{device.kind}, cpu", "update", action)


def measure_update(spec: ModelSpec, name: str, gradients: list[Tensor], kind: str) -> Tensor:
    """Return the change of all weights after two steps with the same gradients, as one vector on the CPU."""
    model = build_model(spec, seed=0).to(kind)
    before = torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()])
    optimizer = build_optimizer(model, OptimizerConfig(name=name, learning_rate=1e-2))
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.to(kind, copy=True)
    for _ in range(2):
        optimizer.step()
    return torch.cat([parameter.detach().flatten().cpu() for parameter in model.parameters()]) - before


def compare_long_reduction(device: Device) -> Comparison:
    """Compare a weight's gradient with float64, summed over more positions than old torch supports on Apple silicon."""

    def action() -> dict[str, float]:
        generator = torch.Generator().manual_seed(0)
        x, dy = (torch.randn(MAX_REDUCTION + 8193, 32, generator=generator) + 1 for _ in range(2))
        weight = torch.zeros(32, 32, device=device.kind, requires_grad=True)
        torch.nn.functional.linear(x.to(device.kind), weight).backward(dy.to(device.kind))
        assert weight.grad is not None
        expected = dy.double().T @ x.double()
        return {"gradient": float((weight.grad.cpu().double() - expected).norm() / expected.norm())}

    return check_differences(f"sum over {MAX_REDUCTION + 8193:,}", "fp32, float64", "sum", action)


def matmul_speeds(device: Device, seconds: float = 0.5) -> dict[str, float | None]:
    """Measure FLOP/s of a square product in each precision, about `seconds` each; None if not available here."""
    found: dict[str, float | None] = {}
    for precision in DTYPES:
        try:
            found[precision] = matmul_speed(device, precision, 512 if device.kind == "cpu" else 4096, seconds)
        except RuntimeError:
            found[precision] = None
    return found


def measure_options(spec: ModelSpec, device: Device, *, compiled: bool, seconds: float = 4.0) -> Iterator[Option]:
    """Measure which options speed up training, about `seconds` each."""
    fp32, bf16 = (Device(device.kind, precision, device.threads) for precision in ("fp32", "bf16"))
    plain, unfused = _build_step(spec, fp32), _build_update(spec, device, False)
    yield _measure_option("runtime.precision=bf16", plain, lambda: _build_step(spec, bf16), device, seconds)
    yield _measure_option("fused AdamW (always on)", unfused, lambda: _build_update(spec, device, True), device, 1)
    if compiled:
        yield _measure_option("runtime.compile=true", plain, lambda: _build_step(spec, fp32, True), device, seconds)


def _measure_option(
    name: str, plain: Callable[[], object], other: Callable[[], Callable[[], object]], device: Device, seconds: float
) -> Option:
    try:
        before, after = median_times([plain, other()], device, seconds)
    except (RuntimeError, OSError) as error:  # no kernel or no compiler
        return Option(name, None, " ".join(str(error).split())[:120])
    return Option(name, before / after)


def _build_step(spec: ModelSpec, device: Device, is_compiled: bool = False) -> Callable[[], object]:
    state = build_train_state(spec, OptimizerConfig("adamw", learning_rate=1e-4), device, is_compiled=is_compiled)
    tokens = torch.randint(spec.vocab_size, (2, 129), generator=torch.Generator().manual_seed(0)).to(device.kind)
    return partial(train_step, state, tokens, micro_batch_size=2, grad_clip=1.0, device=device)


def _build_update(spec: ModelSpec, device: Device, fused: bool) -> Callable[[], object]:
    parameters = list(build_model(spec, seed=0).to(device.kind).parameters())
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    return torch.optim.AdamW(parameters, lr=1e-4, fused=fused).step
