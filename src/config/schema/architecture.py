"""The settings of an architecture."""

from dataclasses import dataclass
from typing import Any

from src.config.setting import LENGTH, MISSING, WEIGHT, WIDTH, Range, setting


@dataclass
class ArchitectureConfig:
    """A pattern of residual blocks, and the settings of the block kinds in it."""

    name: str = setting(MISSING, "Name of the architecture, a part of the names of its runs.", form="name")
    pattern: list[str] = setting([], "Block kinds, repeated and cut at n_blocks.")
    free_parameters: list[str] = setting(
        [],
        "Settings that size matching may change, in the order of trial. Empty for the reference (dense).",
        choices=("n_blocks", "d_ff", "expert_d_ff", "d_state", "d_inner"),
    )
    n_blocks: int | None = setting(
        None, "Residual blocks in the model. null: 2 * size.n_layers, or what matching finds.", Range(1, 4096)
    )
    d_ff: int | None = setting(
        None, "Width of the mlp blocks. null: from the size and the recipe, or what matching finds.", WIDTH
    )
    window: int | None = setting(
        None, "Positions that sliding attention sees, itself included. null: a quarter of training.seq_len.", LENGTH
    )
    n_experts: int = setting(8, "Experts of a moe block.", Range(1, 4096))
    top_k: int = setting(2, "Experts that each token is sent to.", Range(1, 4096))
    expert_d_ff: int | None = setting(
        None, "Width of one expert. null: what matching finds (the width of a dense mlp where match=none).", WIDTH
    )
    aux_loss_weight: float = setting(
        0.01,
        "Weight of the load-balancing loss. As in Switch Transformer, equation 4, but per layer and divided by top_k.",
        WEIGHT,
    )
    router_z_loss_weight: float = setting(0.001, "Weight of the router z-loss (ST-MoE, equation 5).", WEIGHT)
    router_bias_rate: float = setting(
        0.0,
        "Step of the bias that balances experts, for example 0.001. 0: no bias. Source: Wang et al., 2024, arXiv "
        "2408.15664. To balance by the bias alone, set aux_loss_weight=0.",
        WEIGHT,
    )
    d_state: int | None = setting(
        None,
        "State size N. null: 64 a head for mamba (Mamba-2) and 16 a channel for mamba1, or what matching finds.",
        Range(1, 2**16),
    )
    d_conv: int = setting(4, "Kernel of the causal convolution before the state-space layer.", Range(1, 1024))
    expand: int = setting(2, "d_inner = expand * d_model, unless d_inner is given.", Range(1, 1024))
    d_inner: int | None = setting(
        None, "Width of the state-space layer. null: from expand, or what matching finds.", WIDTH
    )
    n_groups: int = setting(
        1, "Groups of heads of mamba that share B and C, each with a norm of its own. As in Mamba-2.", Range(1, 4096)
    )
    chunk_size: int = setting(
        64, "Positions that the state-space layer processes at a time. It changes the speed, never the result.",
        Range(1, 2**16, unit="tokens"),
    )  # fmt: skip
    negative_eigenvalues: bool = setting(
        False,
        "Let the state's transition have eigenvalues from -1 to 1, not 0 to 1. For gated_deltanet, mamba and mamba1. "
        "Source: Grazzi et al., 2024, arXiv 2411.12537.",
    )
    settings: dict[str, Any] = setting({}, "Settings of your own blocks, by the names that their KIND lists.")
