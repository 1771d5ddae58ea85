"""The recipe: norm, positions and mlp."""

from dataclasses import dataclass

from src.config.setting import LENGTH, MISSING, Range, setting


@dataclass
class RecipeConfig:
    """The parts that every architecture shares."""

    name: str = setting(MISSING, "Name of the recipe.", form="name")
    norm: str = setting(MISSING, "Normalization before each block.", choices=("rmsnorm", "layernorm"))
    position: str = setting(
        MISSING,
        "Position encoding. learned: added to the token embedding wherever the pattern has attention.",
        choices=("rope", "learned"),
    )
    mlp: str = setting(
        MISSING,
        "Kind of mlp. swiglu: width 2/3 d_ff, rounded up to a multiple of 8. gelu: the tanh form.",
        choices=("swiglu", "gelu"),
    )
    bias: bool = setting(
        MISSING, "Biases in attention, mlp and layernorm. Experts, mamba projections and the head have none."
    )
    max_seq_len: int = setting(4096, "Rows of the table of learned positions, the longest context.", LENGTH)
    norm_eps: float = setting(
        1e-5,
        "Number that norms add to the mean square. In gated_deltanet, 1e-5 for the norm of each head.",
        Range(0, 1, above=True),
    )
    rope_theta: float = setting(
        10000.0, "Base of the wavelengths of rotary positions. As in RoFormer (Su et al., 2021).", Range(1, 10**12)
    )
    tie_embeddings: bool = setting(
        False, "The head shares the weights of the token embedding. As in GPT-2 (Press and Wolf, 2017)."
    )
