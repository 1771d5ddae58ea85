"""Choose the kernel for windows and document masks: FlexAttention if it agrees with SDPA and is faster, else SDPA.

A trial before the first step decides it once; the run writes the choice to its config.yaml. SDPA computes windows in
blocks (`src/model/blocks/sliding_attention`) on every device.
"""

from functools import partial

import torch
from torch import Tensor

from src.model.blocks.attention.module import Attention
from src.model.language_model import LanguageModel
from src.runtime.device import Device
from src.runtime.errors import first_line
from src.runtime.log import LogFunction
from src.runtime.timing import median_times
from src.training.compilation import Batch, artificial_tokens, run_pass

SDPA, FLEX = "sdpa", "flex"
TOLERANCE = {"fp32": 1e-2, "bf16": 0.15, "fp16": 0.15}
"""The largest relative difference of the gradients of all blocks of attention as one vector."""


def choose_kernel(model: LanguageModel, batch: Batch, device: Device, log_info: LogFunction) -> str:
    """Return the kernel, and let the model use it. All processes decide alike; weights stay unchanged."""
    if not device.has_flex_gradients or not model.has_masked_attention(batch.length, batch.masked):
        return SDPA
    is_faster = False
    try:
        difference = _gradient_difference(model, batch, device)
        passes = [partial(_run_with, model, kernel, batch, device) for kernel in (SDPA, FLEX)]
        plain, flex = median_times(passes, device, seconds=4)
        is_faster = flex < plain and difference <= TOLERANCE[device.precision]
        report = f"{plain / flex:.2f} times as fast as SDPA, gradients differ by {difference:.1e}"
    except Exception as error:  # a compiler may raise any type
        report = f"it fails here ({first_line(error)})"
    is_rejected = device.process_group.all_reduce_max(None if is_faster else 1)
    log_info(f"FlexAttention: {report}{'; going on with SDPA' if is_rejected else ''}")
    model.uses_flex = not is_rejected
    return SDPA if is_rejected else FLEX


def _run_with(model: LanguageModel, kernel: str, batch: Batch, device: Device) -> None:
    model.uses_flex = kernel == FLEX
    run_pass(model, model, batch, device)


def _gradient_difference(model: LanguageModel, batch: Batch, device: Device) -> float:
    """Return the difference of the gradients with FlexAttention relative to those with SDPA."""
    plain, flex = (_gradient(model, kernel, batch, device) for kernel in (SDPA, FLEX))
    return float((flex - plain).norm() / plain.norm())


def _gradient(model: LanguageModel, kernel: str, batch: Batch, device: Device) -> Tensor:
    model.train()
    model.uses_flex = kernel == FLEX
    tokens, documents = artificial_tokens(model, batch, device)
    try:
        with device.autocast():
            hidden = model(tokens, documents=documents).hidden
        hidden.float().square().mean().backward()
        blocks = [block for block in model.blocks if isinstance(block, Attention)]
        gradients = [parameter.grad for block in blocks for parameter in block.parameters()]
        return torch.cat([gradient.float().flatten() for gradient in gradients if gradient is not None])
    finally:
        model.zero_grad(set_to_none=True)
