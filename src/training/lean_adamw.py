"""AdamW for little memory: both moments in 8 bits, and weights in bf16 with stochastic rounding.

The update is that of `torch.optim.AdamW` (Loshchilov and Hutter, 2019). What is stored differs:

- Moments of parameters with at least `MIN_SIZE` elements: blocks of 256 with one fp32 scale, the largest absolute value
  in the block (as Dettmers et al., 2022, arXiv 2110.02861). A code c stands for scale * sign(c) * (|c| / 127)^2 in the
  first moment and for scale * (c / 255)^4 in the second: the powers give small values small steps, as the dynamic code
  of that paper does, and need no table. A code of the second moment is at least 1, as the step divides by its root.
- Weights in bf16: rounded up or down with probabilities that make the mean exact (stochastic rounding). Rounding to the
  nearest would lose every update below half the distance of two numbers, a 512th of the weight.

Codes are rounded stochastically too: at the nearest code, a small moment would stay where it is and not decay. The
random numbers are a function of `rounding_key`, which is set before each step, so a resumed run draws the same, and so
do several processes with the whole model each. A step whose gradient is not finite changes nothing; the device decides
that, without synchronization.

torchao has such optimizers. They need a compiler on every device, draw from the global generator and update whatever
the gradient is, so they are not used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from src.model.dropout import hash_key
from src.training.optimizer_base import Optimizer
from src.training.parallel import local

BLOCK = 256
MIN_SIZE = 4096
"""Elements of a parameter from which its moments are stored in 8 bits."""
CPU_CHUNK, CHUNK = 1 << 18, 1 << 22
"""Elements that are updated at a time: few enough for a CPU's cache; on a GPU, to bound the temporary fp32 copies."""
TINY = torch.finfo(torch.float32).tiny


class Code(NamedTuple):
    """An 8-bit code: c stands for scale * sign(c) * (|c| / levels) ^ power."""

    dtype: torch.dtype
    levels: int
    least: int
    power: int
    """2 or 4."""
    shift: int
    """The first of the 16 random bits that round this code."""


CODES = {"m": Code(torch.int8, 127, -127, 2, shift=8), "v": Code(torch.uint8, 255, 1, 4, shift=16)}
"""Of the first and of the second moment."""


class LeanAdamW(Optimizer):
    """AdamW with 8-bit moments, for parameters in fp32 or bf16."""

    _step_supports_amp_scaling = True  # a gradient scaler sets `found_inf` instead of skipping the step
    found_inf: Tensor | None = None
    """1.0 if the gradient is not finite: the step then changes nothing. A scaler deletes it after the step."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        has_8bit_moments: bool = True,
    ) -> None:
        """has_8bit_moments: otherwise they are fp32."""
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self.has_8bit_moments = has_8bit_moments
        self.rounding_key: tuple[object, ...] = ()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        updated = [(p, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        device = updated[0][0].device
        generator = torch.Generator(device).manual_seed(hash_key(self.rounding_key))
        is_applied = torch.ones((), dtype=torch.bool, device=device) if self.found_inf is None else self.found_inf == 0
        for parameter, group in updated:
            state = self.state[parameter]
            if not state:
                state |= self._new_state(parameter)
            state["step"] += is_applied
            size = CPU_CHUNK if parameter.is_cpu else CHUNK
            weights, gradients = local(parameter).view(-1), local(parameter.grad).view(-1)
            for start in range(0, len(weights), size):
                part = slice(start, start + size)
                _update_part(weights[part], gradients[part].float(), part, state, group, is_applied, generator)

    def _new_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        size, device = parameter.numel(), parameter.device
        state = {"step": torch.zeros((), device=device)}
        if not self.has_8bit_moments or size < MIN_SIZE:
            return state | {name: torch.zeros(size, device=device) for name in CODES}
        scales = {f"{name}_scale": torch.zeros(-(-size // BLOCK), device=device) for name in CODES}
        return state | scales | {n: torch.zeros(size, dtype=code.dtype, device=device) for n, code in CODES.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load groups and state; torch's own method would convert the codes to the type of the parameter."""
        super().load_state_dict({**state_dict, "state": {}})
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        for index, saved in state_dict["state"].items():
            parameter = parameters[index]
            self.state[parameter] = {
                name: local(value).to(parameter.device, copy=True) for name, value in saved.items()
            }


def _update_part(
    weight: Tensor,
    gradient: Tensor,
    part: slice,
    state: dict[str, Tensor],
    group: dict[str, Any],
    is_applied: Tensor,
    generator: torch.Generator,
) -> None:
    """Update elements (n,) of a parameter, and their moments. part: their place, which begins at a whole block.

    is_applied: false: no change.
    """
    blocks = slice(part.start // BLOCK, -(-part.stop // BLOCK))
    stored = {name: state[name][part] for name in CODES}
    scales = {name: state[f"{name}_scale"][blocks] for name in CODES if f"{name}_scale" in state}
    m, v = (decode(stored[n], scales[n], code) if scales else stored[n] for n, code in CODES.items())

    (first, second), rate = group["betas"], group["lr"]
    m = m.lerp(gradient, 1 - first)
    v = (v * second).addcmul_(gradient, gradient, value=1 - second)
    denominator = (v / (1 - second ** state["step"])).sqrt_().add_(group["eps"])
    changed = weight.float() * (1 - rate * group["weight_decay"])
    changed -= m / denominator * (rate / (1 - first ** state["step"]))

    new = {"m": m, "v": v}
    if scales or weight.dtype == torch.bfloat16:
        length = weight.numel() + -weight.numel() % BLOCK
        noise = torch.randint(
            -(1 << 31), 1 << 31, (length,), dtype=torch.int32, device=weight.device, generator=generator
        )
        if scales:
            for name, code in CODES.items():
                new[name], scale = encode(new[name], code, noise)
                scales[name].copy_(torch.where(is_applied, scale, scales[name]))
        if weight.dtype == torch.bfloat16:
            changed = round_stochastically(changed, noise[: weight.numel()])
    for name, value in new.items():
        stored[name].copy_(torch.where(is_applied, value, stored[name]))
    weight.copy_(torch.where(is_applied, changed, weight))


def encode(values: Tensor, code: Code, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Encode values (n,). noise: (n rounded up to whole blocks,) int32, of which 16 bits count.

    Returns: codes (n,) of the code's type, and scales (number of blocks,).
    """
    blocks = F.pad(values, (0, -values.numel() % BLOCK)).view(-1, BLOCK)
    scale = blocks.abs().amax(dim=1)
    share = (blocks.abs() / scale.clamp(min=TINY)[:, None]).sqrt_()
    share = share.sqrt_() if code.power == 4 else share
    up = ((noise >> code.shift) & 0xFFFF).view_as(blocks) / (1 << 16)
    codes = ((share * code.levels + up).floor_() * blocks.sign()).clamp_(min=code.least)
    return codes.view(-1)[: values.numel()].to(code.dtype), scale


def decode(codes: Tensor, scale: Tensor, code: Code) -> Tensor:
    """Return the values (n,) of codes (n,) with scales (number of blocks,)."""
    shares = F.pad(codes / code.levels, (0, -codes.numel() % BLOCK)).view(-1, BLOCK)
    shares = shares * shares.abs() if code.power == 2 else shares.square().square_()
    return (shares * scale[:, None]).view(-1)[: codes.numel()]


def round_stochastically(values: Tensor, noise: Tensor) -> Tensor:
    """Round fp32 values (n,) to bf16, up or down such that the mean is exact.

    bf16 is the upper half of fp32: a random lower half is added, and what is then in the lower half is dropped. noise:
    (n,) int32, of which 16 bits count.
    """
    bits = values.view(torch.int32) + (noise & 0xFFFF)
    return (bits & ~0xFFFF).view(torch.float32).to(torch.bfloat16)
