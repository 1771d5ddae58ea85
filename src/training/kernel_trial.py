"""Choose a kernel by a trial: the alternative if its gradients agree with ours and it is faster, else ours.

A trial before the first step decides it once; the run writes the choice to its config.yaml. Ours run on every device:
SDPA, with windows in blocks (`src/model/blocks/sliding_attention`), and the chunked recurrences of mamba and
gated_deltanet.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from src.model.blocks.attention.module import Attention
from src.model.blocks.base import Block
from src.model.blocks.fla_kernels import is_fla_installed
from src.model.language_model import LanguageModel
from src.runtime.device import Device
from src.runtime.errors import first_line
from src.runtime.log import LogFunction
from src.runtime.timing import median_times
from src.training.compilation import Batch, artificial_tokens, run_pass

TOLERANCE = {"fp32": 1e-2, "bf16": 0.15, "fp16": 0.15}
"""The largest relative difference of the gradients of all blocks that use the kernel, as one vector."""


@dataclass(frozen=True)
class Kernel:
    """A kernel of a library, and ours, which it can replace."""

    setting: str
    """Field of `RuntimeConfig`."""
    name: str
    """Its value for this kernel."""
    ours: str
    """Its value for ours."""
    titles: tuple[str, str]
    """Of this kernel and of ours, in messages."""
    switch: str
    """Attribute of the model: whether it uses this kernel."""

    def is_possible(self, model: LanguageModel, batch: Batch, device: Device) -> bool:
        """Return whether the device has the kernel and the model has a use for it."""
        if self is FLEX:
            return device.has_flex_gradients and model.has_masked_attention(batch.length, batch.masked)
        return device.is_nvidia_gpu and is_fla_installed() and model.has_fla_kernel()

    def concerns(self, block: object) -> bool:
        """Return whether a block uses this kernel."""
        return isinstance(block, Attention) if self is FLEX else isinstance(block, Block) and block.has_fla_kernel


FLEX = Kernel("attention", "flex", "sdpa", ("FlexAttention", "SDPA"), "uses_flex")
FLA = Kernel("kernels", "fla", "torch", ("flash-linear-attention", "our recurrences"), "uses_fla")


def choose_kernel(kernel: Kernel, model: LanguageModel, batch: Batch, device: Device, log_info: LogFunction) -> str:
    """Return the value of the setting, and let the model use it. All processes decide alike; weights stay unchanged."""
    if not kernel.is_possible(model, batch, device):
        return kernel.ours
    title, our_title = kernel.titles
    is_faster = False
    try:
        difference = _gradient_difference(kernel, model, batch, device)
        passes = [partial(_run_with, kernel, is_used, model, batch, device) for is_used in (False, True)]
        ours, theirs = median_times(passes, device, seconds=4)
        is_faster = theirs < ours and difference <= TOLERANCE[device.precision]
        report = f"{ours / theirs:.2f} times as fast as {our_title}, gradients differ by {difference:.1e}"
    except Exception as error:  # a compiler may raise any type
        report = f"it fails here ({first_line(error)})"
    is_rejected = device.process_group.all_reduce_max(None if is_faster else 1)
    log_info(f"{title}: {report}{f'; going on with {our_title}' if is_rejected else ''}")
    setattr(model, kernel.switch, not is_rejected)
    return kernel.ours if is_rejected else kernel.name


def _run_with(kernel: Kernel, is_used: bool, model: LanguageModel, batch: Batch, device: Device) -> None:
    setattr(model, kernel.switch, is_used)
    run_pass(model, model, batch, device)


def _gradient_difference(kernel: Kernel, model: LanguageModel, batch: Batch, device: Device) -> float:
    """Return the difference of the gradients with the kernel relative to those with ours."""
    ours, theirs = (_gradient(kernel, is_used, model, batch, device) for is_used in (False, True))
    return float((theirs - ours).norm() / ours.norm())


def _gradient(kernel: Kernel, is_used: bool, model: LanguageModel, batch: Batch, device: Device) -> Tensor:
    model.train()
    setattr(model, kernel.switch, is_used)
    tokens, documents = artificial_tokens(model, batch, device)
    try:
        with device.autocast():
            hidden = model(tokens, documents=documents).hidden
        # Its own square would be constant behind the last norm, and the gradient rounding errors.
        (hidden.float() * torch.arange(hidden.numel(), device=hidden.device).view_as(hidden).sin()).mean().backward()
        blocks = [block for block in model.blocks if kernel.concerns(block)]
        gradients = [parameter.grad for block in blocks for parameter in block.parameters()]
        return torch.cat([gradient.float().flatten() for gradient in gradients if gradient is not None])
    finally:
        model.zero_grad(set_to_none=True)
