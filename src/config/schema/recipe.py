"""The recipe: norm, positions and mlp."""

from dataclasses import dataclass

from src.config.setting import LENGTH, MISSING, setting


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
    tie_embeddings: bool = setting(
        False, "The head shares the weights of the token embedding. As in GPT-2 (Press and Wolf, 2017)."
    )
