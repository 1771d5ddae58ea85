"""The recurrences of mamba (Mamba-2) and gated_deltanet by Triton kernels of flash-linear-attention (`fla-core`).

`src/training/kernel_trial.py` decides where they are used, on NVIDIA GPUs alone. Inputs, states and sums are fp32, as
in `ssd.py` and `gated_deltanet/module.py`; `runtime.tf32` decides whether products use tensor cores
(`src/runtime/device.py`). A document begins with a decay of exp(`RESET`). The library's own form of documents,
`cu_seqlens`, reads their number on the host in every call.

The library is the extra `cuda`. It is imported at the first call.

B, T: batch, position; H: heads; N, P: head widths of keys (or of the state) and values.
"""

from importlib.util import find_spec

from torch import Tensor
from torch.nn import functional as F

RESET = -40.0
"""Log decay at the start of a document. exp(-40) = 4e-18 of the state remains, less than fp32 resolves. A lower value
would cost digits: the kernels subtract cumulative sums over a chunk."""
DELTA_RULE_CHUNK = 32
"""With chunks of 64, the library's default, its solver of the triangular system always rounds to TF32."""


def is_fla_installed() -> bool:
    """Return whether the extra `cuda` is installed."""
    return find_spec("fla") is not None


def fla_ssd(
    x: Tensor,
    dt: Tensor,
    a: Tensor,
    b: Tensor,
    c: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
    steps: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `ssd.chunked_ssd` with its arguments and results; the kernels have their own chunk size.

    SSD is gated linear attention with queries C, keys B, values dt x and the log decay dt A of each head.
    """
    from fla.ops.simple_gla import chunk_simple_gla  # pyright: ignore[reportMissingImports]: an extra

    q, k = (part[:, :, None].expand(-1, -1, x.shape[2], -1) for part in (c, b))
    y, last = chunk_simple_gla(
        q,
        k,
        x * dt[..., None],
        reset_decay(dt * a if steps is None else steps, documents),
        scale=1.0,
        initial_state=None if state is None else state.transpose(1, 2),
        output_final_state=True,
    )
    return y, last.transpose(1, 2)


def fla_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    beta: Tensor,
    chunk: int,
    state: Tensor | None = None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute `gated_deltanet.module.chunked_delta_rule` with its arguments and results, in chunks of 32."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule  # pyright: ignore[reportMissingImports]: an extra

    return chunk_gated_delta_rule(
        q,
        k,
        v,
        reset_decay(log_decay, documents),
        beta,
        scale=1.0,
        initial_state=state,
        output_final_state=True,
        chunk_size=DELTA_RULE_CHUNK,
    )


def reset_decay(log_decay: Tensor, documents: Tensor | None) -> Tensor:
    """Return the log decay (B, T, H) with `RESET` where a document (B, T) begins, except at the first position."""
    if documents is None:
        return log_decay
    begins = F.pad(documents.diff(dim=1) != 0, (1, 0))
    return log_decay.masked_fill(begins[..., None], RESET)
